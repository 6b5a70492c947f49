"""Text on a node in the page, for the one who queued the prompt.

The page draws no text output but that of its own preview nodes; progress text it draws on any node."""

from server import PromptServer

WORDS = "hypernoise_words"
"""The part of a node's output that web/words.js draws as progress text: it comes again where a result is cached."""


def show_text(text: str, node_id: str) -> None:
    """Show `text` on the node of that id while it runs, in the page that queued the prompt which is running."""
    server = PromptServer.instance
    server.send_progress_text(_drawn(text), node_id, server.client_id)


def shown(text: str) -> dict[str, list[str]]:
    """A node's last words, as `ui` of its output: the text for those who run a workflow without the page, and what is
    shown on the node."""
    return {"text": [text], WORDS: [_drawn(text)]}


def _drawn(text: str) -> str:
    """The new page reads it as Markdown and the classic one as plain text. Two spaces at its end break a line in both,
    and neither keeps columns."""
    return "  \n".join(" ".join(line.split()) for line in text.splitlines())
