"""Marks in a Go template: the tags around thinking, and the tag that begins a tool call."""

from collections.abc import Iterator

from ..go.text import SPACE
from .gotemplate import Template, nodes


def thinking_tags(template: Template) -> tuple[str, str]:
    """Return the texts around `.Thinking` in a loop over `.Messages`: (`<think>`, `</think>`), or empty texts."""
    opening = closing = ""
    for tree in template.trees.values():
        for ancestors in _uses_of_thinking(tree, []):
            loop = next(
                (node for node in reversed(ancestors) if isinstance(node, nodes.Branch) and node.kind == "range"), None
            )
            if loop is None or not _uses_messages(loop.pipe):
                continue
            body = next(node for node in reversed(ancestors) if isinstance(node, nodes.List))
            first, last = body.nodes[0], body.nodes[-1]
            opening = first.text.strip() if isinstance(first, nodes.Text) else opening
            closing = last.text.strip() if isinstance(last, nodes.Text) else closing
    return opening, closing


def _children(node: nodes.Node) -> Iterator[nodes.Node]:
    for value in vars(node).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, nodes.Node):
                yield item


def _uses_of_thinking(node: nodes.Node, ancestors: list[nodes.Node]) -> Iterator[list[nodes.Node]]:
    """Yield the ancestors of each `.Thinking`, outermost first."""
    ancestors = [*ancestors, node]
    if isinstance(node, nodes.Field) and node.names[:1] == ["Thinking"]:
        yield ancestors
    for child in _children(node):
        yield from _uses_of_thinking(child, ancestors)


def _uses_messages(node: nodes.Node) -> bool:
    """Whether a pipeline uses `.Messages`. `$.Messages` does not count: Ollama does not look there."""
    if isinstance(node, nodes.Field) and node.names[:1] == ["Messages"]:
        return True
    return any(_uses_messages(child) for child in _children(node))


def tag_of(template: Template) -> str:
    """Return the text that begins a tool call: the first text inside the first `{{ if .ToolCalls }}`, up to a brace.

    Returns `{` if there is none.
    """
    branch = _first_branch(template.trees[""])
    text = None if branch is None else _first_text(branch.body)
    tag = "" if text is None else text.strip(SPACE).replace("\r\n", "\n").partition("{")[0]
    return tag or "{"


def _first_branch(tree: nodes.List) -> nodes.Branch | None:
    for node in tree.nodes:
        if not isinstance(node, nodes.Branch):
            continue
        if node.kind == "if" and _names_calls(node.pipe):
            return node
        for body in (node.body, node.otherwise):
            found = None if body is None else _first_branch(body)
            if found is not None:
                return found
    return None


def _names_calls(pipe: nodes.Pipe) -> bool:
    return any(
        isinstance(argument, nodes.Field) and "ToolCalls" in argument.names
        for command in pipe.commands
        for argument in command.arguments
    )


def _first_text(tree: nodes.List) -> str | None:
    """Return the first text. The search stops at an action, and at a branch without text."""
    for node in tree.nodes:
        if isinstance(node, nodes.Text):
            return node.text
        if isinstance(node, nodes.Branch):
            bodies = [body for body in (node.body, node.otherwise) if body is not None]
            return next((text for text in map(_first_text, bodies) if text is not None), None)
        if isinstance(node, nodes.Action):
            return None
    return None


CODER_TAG = "<tool_call>\n<function="  # begins a call that Qwen3CoderParser parses
