"""Files that nodes write, in the lists that other nodes offer."""

from server import PromptServer

SAVED = "hypernoise.saved"
"""The message that `web/refresh.js` waits for."""


def offer_new_files() -> None:
    """Have the page that queued the prompt read its lists of files anew, as its key R does."""
    server = PromptServer.instance
    server.send_sync(SAVED, {}, server.client_id)
