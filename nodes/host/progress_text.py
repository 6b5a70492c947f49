"""Text on a node in the page, for the one who queued the prompt.

The page draws no text output but that of its own preview nodes; progress text it draws on any node."""

from comfy_api.v0_0_2 import ui
from server import PromptServer


def show_text(text: str, node_id: str) -> None:
    """Show `text` on the node of that id, in the page that queued the prompt which is running.

    The new page reads it as Markdown and the classic one as plain text. Two spaces at its end break a line in both, and
    neither keeps columns."""
    server = PromptServer.instance
    lines = (" ".join(line.split()) for line in text.splitlines())
    server.send_progress_text("  \n".join(lines), node_id, server.client_id)


def shown(text: str, node_id: str) -> ui.PreviewText:
    """A node's last words: shown on it, and the text of its output for those who run a workflow without the page."""
    show_text(text, node_id)
    return ui.PreviewText(text)
