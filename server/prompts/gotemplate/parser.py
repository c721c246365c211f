"""Parses templates. In: text and the names of the functions it may call. Out: {name: List}; "" is the main tree.

Raises `TemplateError` with Go's message: `template: :LINE: what`.
"""

from collections.abc import Callable, Container
from typing import NoReturn, TypeVar

from . import nodes
from .formatting import quote
from .lexer import Token, tokenize
from .literals import LiteralError, parse_number, unquote

TERMS = {
    "bool",
    "char_constant",
    "dot",
    "field",
    "identifier",
    "number",
    "raw_string",
    "string",
    "variable",
    "left_paren",
}
BREAKABLE = (nodes.Dot, nodes.Nil, nodes.Literal)  # these cannot be a stage of a pipeline or have fields


T = TypeVar("T")


class TemplateError(Exception):
    """A template cannot be parsed or executed. stage: "parse" or "execute"."""

    def __init__(self, text: str, stage: str = "parse"):
        super().__init__(text)
        self.stage = stage


def parse(text: str, functions: Container[str]) -> dict[str, nodes.List]:
    """Return all trees of a text. functions: the names that may be called."""
    return _Parser(text, functions).run()


class _Parser:
    def __init__(self, text: str, functions: Container[str]):
        self.tokens = tokenize(text)
        self.index = 0
        self.furthest = 0
        self.functions = functions
        self.trees: dict[str, nodes.List] = {}
        self.variables = ["$"]
        self.range_depth = 0
        self.action_line = 0

    # --- tokens

    def next(self) -> Token:
        token = self.peek()
        self.index += 1
        return token

    def peek(self) -> Token:
        at = min(self.index, len(self.tokens) - 1)  # the last token, eof or error, repeats
        self.furthest = max(self.furthest, at)
        return self.tokens[at]

    def skip_space(self) -> None:
        while self.peek().kind == "space":
            self.index += 1

    def next_non_space(self) -> Token:
        self.skip_space()
        return self.next()

    def peek_non_space(self) -> Token:
        self.skip_space()
        return self.peek()

    def fail(self, message: str) -> NoReturn:
        raise TemplateError(f"template: :{self.tokens[self.furthest].line}: {message}")

    def unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind == "error":
            extra = ""
            if self.action_line and self.action_line != token.line:
                extra = f" in action started at :{self.action_line}"
                if token.value.endswith(" action"):
                    extra = extra.removeprefix(" in action")
            self.fail(f"{token}{extra}")
        self.fail(f"unexpected {token} in {context}")

    def expect(self, kind: str, context: str) -> Token:
        token = self.next_non_space()
        if token.kind != kind:
            self.unexpected(token, context)
        return token

    # --- lists and definitions

    def run(self) -> dict[str, nodes.List]:
        root = nodes.List(0)
        while self.peek().kind != "eof":
            if self.peek().kind == "left":
                mark = self.index
                self.next()
                token = self.next_non_space()
                if token.kind == "keyword" and token.value == "define":
                    self.definition()
                    continue
                self.index = mark
            node = self.text_or_action()
            if isinstance(node, nodes.Mark):
                self.fail(f"unexpected {node}")
            root.nodes.append(node)
        self.add("", root)
        return self.trees

    def add(self, name: str, tree: nodes.List) -> None:
        """Add a definition. An empty one never replaces another; two non-empty ones are an error."""
        if name in self.trees and not _is_empty(self.trees[name]):
            if not _is_empty(tree):
                self.fail(f"template: multiple definition of template {quote(name)}")
            return
        self.trees[name] = tree

    def definition(self) -> None:
        context = "define clause"
        name = self.template_name(self.next_non_space(), context)
        self.expect("right", context)
        self.nested_tree(name, context)

    def nested_tree(self, name: str, context: str) -> None:
        """Parse the body of a define or block, which cannot see the variables and loops outside."""
        outside = self.variables, self.range_depth
        self.variables, self.range_depth = ["$"], 0
        body, end = self.item_list()
        if end.kind != "end":
            self.fail(f"unexpected {end} in {context}")
        self.add(name, body)
        self.variables, self.range_depth = outside

    def item_list(self) -> tuple[nodes.List, nodes.Mark]:
        items = nodes.List(self.peek_non_space().pos)
        while self.peek_non_space().kind != "eof":
            node = self.text_or_action()
            if isinstance(node, nodes.Mark):
                return items, node
            items.nodes.append(node)
        self.fail("unexpected EOF")

    def text_or_action(self) -> nodes.Node:
        token = self.next_non_space()
        if token.kind == "text":
            return nodes.Text(token.pos, token.value)
        if token.kind != "left":
            self.unexpected(token, "input")
        self.action_line = token.line
        node = self.action()
        self.action_line = 0
        return node

    # --- actions

    def action(self) -> nodes.Node:
        token = self.next_non_space()
        if token.kind == "keyword":
            match token.value:
                case "if" | "range" | "with":
                    return self.branch(token.value, token.pos)
                case "else":
                    return self.else_mark(token)
                case "end":
                    return nodes.Mark(self.expect("right", "end").pos, "end")
                case "break" | "continue":
                    return self.jump(token)
                case "template":
                    return self.template_call()
                case "block":
                    return self.block()
        self.index -= 1
        return nodes.Action(self.peek().pos, self.pipeline("command", "right"))

    def else_mark(self, token: Token) -> nodes.Mark:
        following = self.peek_non_space()
        if following.kind == "keyword" and following.value in ("if", "with"):
            return nodes.Mark(following.pos, "else")
        return nodes.Mark(self.expect("right", "else").pos, "else")

    def jump(self, token: Token) -> nodes.Jump:
        following = self.next_non_space()
        if following.kind != "right":
            self.unexpected(following, "{{%s}}" % token.value)
        if self.range_depth == 0:
            self.fail("{{%s}} outside {{range}}" % token.value)
        return nodes.Jump(token.pos, token.value)

    def branch(self, kind: str, pos: int) -> nodes.Branch:
        num_variables = len(self.variables)
        pipe = self.pipeline(kind, "right")
        self.range_depth += kind == "range"
        body, end = self.item_list()
        self.range_depth -= kind == "range"
        otherwise = None
        if end.kind == "else":
            following = self.peek()
            if kind in ("if", "with") and following.kind == "keyword" and following.value == kind:
                self.next()  # {{else if}}: a separate branch, closed by the same end
                otherwise = nodes.List(end.pos, [self.branch(kind, following.pos)])
            else:
                otherwise, end = self.item_list()
                if end.kind != "end":
                    self.fail(f"expected end; found {end}")
        del self.variables[num_variables:]
        return nodes.Branch(pos, kind, pipe, body, otherwise)

    def template_name(self, token: Token, context: str) -> str:
        if token.kind not in ("string", "raw_string"):
            self.unexpected(token, context)
        return self.literal(unquote, token.value)

    def template_call(self) -> nodes.Call:
        context = "template clause"
        token = self.next_non_space()
        name = self.template_name(token, context)
        if self.peek_non_space().kind == "right":
            self.next()
            return nodes.Call(token.pos, name, None)
        return nodes.Call(token.pos, name, self.pipeline(context, "right"))

    def block(self) -> nodes.Call:
        context = "block clause"
        token = self.next_non_space()
        name = self.template_name(token, context)
        pipe = self.pipeline(context, "right")
        self.nested_tree(name, context)
        return nodes.Call(token.pos, name, pipe)

    # --- pipelines

    def pipeline(self, context: str, end: str) -> nodes.Pipe:
        pipe = nodes.Pipe(self.peek_non_space().pos)
        self.declarations(pipe, context)
        while True:
            token = self.next_non_space()
            if token.kind == end:
                self.check_pipeline(pipe, context)
                return pipe
            if token.kind not in TERMS and (token.kind, token.value) != ("keyword", "nil"):
                self.unexpected(token, context)
            self.index -= 1
            pipe.commands.append(self.command())

    def declarations(self, pipe: nodes.Pipe, context: str) -> None:
        """Parse `$a :=`, `$a =`, and in a range `$a, $b :=`. Any other variable is part of the pipeline."""
        while self.peek_non_space().kind == "variable":
            mark = self.index
            variable = self.next()
            following = self.peek_non_space()
            if following.kind in ("assign", "declare"):
                self.next()
                pipe.assign = following.kind == "assign"
            elif (following.kind, following.value) != ("char", ","):
                self.index = mark
                return
            pipe.declarations.append(nodes.Variable(variable.pos, [variable.value]))
            self.variables.append(variable.value)
            if following.kind != "char":
                return
            self.next()
            if context != "range" or len(pipe.declarations) >= 2:
                self.fail(f"too many declarations in {context}")
            if self.peek_non_space().kind not in ("variable", "right", "right_paren"):
                self.fail("range can only initialize variables")

    def check_pipeline(self, pipe: nodes.Pipe, context: str) -> None:
        if not pipe.commands:
            self.fail(f"missing value for {context}")
        for stage, command in enumerate(pipe.commands[1:], 2):
            if isinstance(command.arguments[0], BREAKABLE):
                self.fail(f"non executable command in pipeline stage {stage}")

    def command(self) -> nodes.Command:
        command = nodes.Command(self.peek_non_space().pos)
        while True:
            self.skip_space()
            operand = self.operand()
            if operand is not None:
                command.arguments.append(operand)
            token = self.next()
            if token.kind == "space":
                continue
            if token.kind in ("right", "right_paren"):
                self.index -= 1
            elif token.kind != "pipe":
                self.unexpected(token, "operand")
            break
        if not command.arguments:
            self.fail("empty command")
        return command

    def operand(self) -> nodes.Node | None:
        node = self.term()
        if node is None or self.peek().kind != "field":
            return node
        pos = self.peek().pos
        names = []
        while self.peek().kind == "field":
            names.append(self.next().value[1:])
        if isinstance(node, (nodes.Field, nodes.Variable)):
            return type(node)(pos, node.names + names)
        if isinstance(node, BREAKABLE):
            self.fail(f"unexpected . after term {quote(str(node))}")
        return nodes.Chain(pos, node, names)

    def term(self) -> nodes.Node | None:
        token = self.next_non_space()
        pos, value = token.pos, token.value
        match token.kind:
            case "identifier":
                if value not in self.functions:
                    self.fail(f'function "{value}" not defined')
                return nodes.Identifier(pos, value)
            case "dot":
                return nodes.Dot(pos)
            case "keyword" if value == "nil":
                return nodes.Nil(pos)
            case "variable":
                if value not in self.variables:
                    self.fail(f'undefined variable "{value}"')
                return nodes.Variable(pos, [value])
            case "field":
                return nodes.Field(pos, [value[1:]])
            case "bool":
                return nodes.Literal(pos, "bool", value, value == "true")
            case "number" | "char_constant":
                return nodes.Literal(pos, "number", value, self.literal(parse_number, value))
            case "left_paren":
                return self.pipeline("parenthesized pipeline", "right_paren")
            case "string" | "raw_string":
                return nodes.Literal(pos, "string", value, self.literal(unquote, value))
        self.index -= 1
        return None

    def literal(self, convert: Callable[[str], T], text: str) -> T:
        try:
            return convert(text)
        except LiteralError as error:
            self.fail(str(error))


def _is_empty(tree: nodes.List) -> bool:
    return all(isinstance(node, nodes.Text) and not node.text.strip(" \t\r\n") for node in tree.nodes)
