"""Ollama's use of Go templates: the variables a template gets, and how old templates write a conversation.

In: `Values`, messages as decoded JSON objects. Out: prompt text. A template that uses `.Messages` runs once over all
messages. Any other template runs once per exchange with `.System`, `.Prompt` and `.Response`; its last run ends where
the response belongs.
"""

import copy
from dataclasses import dataclass, field

from . import api_values, nodes
from .budget import Budget
from .execute import execute
from .functions import BUILTINS, FUNCTIONS
from .parser import TemplateError, parse
from .values import Map, Slice

NESTED_TOO_DEEPLY = "template: blocks or parentheses are nested too deeply"


@dataclass
class Values:
    """The values a prompt is made of. tools None: none given. think_level: "high" etc. if `think` was a string."""

    messages: list[dict] = field(default_factory=list)
    tools: list[dict] | None = None
    prompt: str = ""
    suffix: str = ""
    think: bool = False
    think_level: str = ""
    is_think_set: bool = False


class Template:
    """A parsed template, created by `Template.parse`."""

    def __init__(self, text: str, trees: dict[str, nodes.List]):
        self.text, self.trees = text, trees

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Parse a template. One that uses neither messages nor response gets `{{ .Response }}` appended.

        Raises TemplateError (stage "parse").
        """
        try:
            template = cls(text, parse(text, FUNCTIONS))
            names = template.vars()
        except RecursionError:
            raise TemplateError(NESTED_TOO_DEEPLY) from None
        if "messages" not in names and "response" not in names:
            pipe = nodes.Pipe(0, commands=[nodes.Command(0, [nodes.Field(0, ["Response"])])])
            template.trees[""].nodes.append(nodes.Action(0, pipe))
        return template

    def vars(self) -> list[str]:
        """Return all identifiers in lower case, sorted. They show what the template supports (messages, tools, ...)."""
        names = set()
        for tree in self.trees.values():
            _collect(tree, names)
        return sorted(name.lower() for name in names)

    def execute(self, values: Values) -> str:
        """Write the prompt. Raises TemplateError (stage "execute")."""
        try:
            return self._execute(values, Budget())
        except RecursionError:
            raise TemplateError(NESTED_TOO_DEEPLY, "execute") from None

    def _execute(self, values: Values, budget: Budget) -> str:
        system, messages = collate(values.messages)
        common = {"Think": values.think, "ThinkLevel": values.think_level, "IsThinkSet": values.is_think_set}
        if values.prompt and values.suffix:
            return self._run({"Prompt": values.prompt, "Suffix": values.suffix, "Response": "", **common}, budget)
        if "messages" in self.vars():
            items = [api_values.message(message) for message in messages]
            return self._run(
                {
                    "System": system,
                    "Messages": Slice("[]*api.Message", items or None),
                    "Tools": api_values.tools(values.tools),
                    "Response": "",
                    **common,
                },
                budget,
            )
        return self._run_exchanges(messages, common, budget)

    def _run(self, variables: dict[str, object], budget: Budget) -> str:
        return execute(self.text, self.trees, Map(variables), FUNCTIONS, budget)

    def _run_exchanges(self, messages: list[dict], common: dict[str, object], budget: Budget) -> str:
        """Run the template once per exchange. The last run ends at the response, which the model continues."""
        pieces = []
        system = prompt = response = ""
        for message in messages:
            role, content = message.get("role"), message.get("content") or ""
            complete = response if role == "user" else prompt or response if role == "system" else ""
            if complete:
                pieces.append(self._run({"System": system, "Prompt": prompt, "Response": response, **common}, budget))
                system = prompt = response = ""
            if role == "system":
                system = content
            elif role == "user":
                prompt = content
            elif role == "assistant":
                response = content
        variables = Map({"System": system, "Prompt": prompt, "Response": response, **common})
        # Ollama builds this last template without its own functions and without definitions.
        pieces.append(execute(self.text, {"": _cut_at_response(self.trees[""])}, variables, BUILTINS, budget))
        return "".join(pieces)


def collate(messages: list[dict]) -> tuple[str, list[dict]]:
    """Return (all system texts joined, messages with neighbours of one role merged).

    Tool messages are not merged: each answers its own call.
    """
    system: list[str] = []
    collated: list[dict] = []
    contents: list[list[str]] = []  # of each collated message, joined at the end: a conversation may be long
    for message in messages:
        role, content = (message.get("role") or "").lower(), message.get("content") or ""
        if role == "system":
            system.append(content)
        if not collated or role == "tool" or collated[-1]["role"] != role:
            collated.append({**message, "role": role})
            contents.append([content])
        elif content:
            contents[-1].append(content)
    for merged, texts in zip(collated, contents):
        if len(texts) > 1:
            merged["content"] = "\n\n".join(texts)
    return "\n\n".join(system), collated


def _collect(node: nodes.Node, names: set[str]) -> None:
    match node:
        case nodes.List():
            for child in node.nodes:
                _collect(child, names)
        case nodes.Call(pipe=None):
            raise TemplateError("undefined template specified")
        case nodes.Action(pipe=pipe) | nodes.Call(pipe=nodes.Pipe() as pipe):
            _collect(pipe, names)
        case nodes.Branch():
            _collect(node.pipe, names)
            _collect(node.body, names)
            if node.otherwise is not None:
                _collect(node.otherwise, names)
        case nodes.Pipe():
            for command in node.commands:
                for argument in command.arguments:
                    _collect(argument, names)
        case nodes.Field() | nodes.Variable():
            names.update(node.names)


def _cut_at_response(tree: nodes.List) -> nodes.List:
    """Return a copy of a tree without everything after its first `.Response`."""
    cut = False

    def keep(node: nodes.Node) -> bool:
        """Return False after the response has been passed. The node of the response itself stays."""
        nonlocal cut
        if isinstance(node, nodes.Field) and "Response" in node.names:
            cut = True
            return True
        return not cut and prune(node)

    def prune(node: nodes.Node) -> bool:
        match node:
            case nodes.List():
                node.nodes = [child for child in node.nodes if keep(child)]
            case nodes.Branch():
                for body in (node.body, node.otherwise):
                    if body is not None and not keep(body):
                        raise TemplateError(
                            "template: a branch follows the response inside one action; end the template there",
                            "execute",
                        )
            case nodes.Action():
                return keep(node.pipe)
            case nodes.Pipe():
                for command in node.commands:
                    command.arguments = [argument for argument in command.arguments if keep(argument)]
                    if not command.arguments:
                        return False
                return bool(node.commands)
        return True

    tree = copy.deepcopy(tree)
    keep(tree)
    return tree
