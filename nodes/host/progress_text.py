"""Text on a node in the page, for the one who queued the prompt."""

from server import PromptServer


def show_text(text: str, node_id: str) -> None:
    """Show `text` below the node of that id, in the page that queued the prompt which is running."""
    server = PromptServer.instance
    server.send_progress_text(text, node_id, server.client_id)
