// Draws a node's last words on it: nodes/host/progress_text.py. They are a part of its output, which the server sends
// again for a node whose result is cached, such as after the page was loaded anew.
import { api } from "../../scripts/api.js";

api.addEventListener("executed", ({ detail }) => {
  const [text] = detail.output?.hypernoise_words ?? [];
  if (text) api.dispatchCustomEvent("progress_text", { nodeId: detail.display_node ?? detail.node, text });
});
