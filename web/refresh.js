// Reads the lists of files anew, as the key R does, when a node has written one: nodes/host/new_files.py.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

api.addEventListener("hypernoise.saved", () => app.refreshComboInNodes());
