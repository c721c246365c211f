"""Runs syntax trees with the semantics of Go's text/template (option missingkey=zero).

Raises `TemplateError` (stage "execute") with Go's message, which names the position: `template: :1:3: executing "" at
<.X>: what`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from . import nodes
from .budget import Budget, BudgetExceeded, Writer
from .formatting import Verb, format_value, quote, struct_text
from .functions import Function, FunctionError
from .parser import TemplateError
from .values import Bytes, Interface, Map, Slice, Struct, static_type_name, string_bytes, truth, type_name, unwrap

MISSING = object()  # there is no value from a previous stage of the pipeline
MAX_DEPTH = 100000


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(text: str, trees: dict, dot: object, functions: dict[str, Function], budget: Budget) -> str:
    """Run trees[""]. text: the source, for positions in error messages."""
    execution = _Execution(text, trees, functions, budget)
    execution.variables = [("$", dot)]
    try:
        execution.walk_list(dot, trees.get("") or nodes.List(0))
    except RecursionError:
        execution.fail(f"exceeded maximum template depth ({MAX_DEPTH})")
    except BudgetExceeded as error:
        execution.fail(str(error))
    return execution.written.text


def string_method(value: object) -> Callable[[object], str] | None:
    """Return the String method of an addressable value, or None."""
    return getattr(value, "text", None) or getattr(value, "pointer_text", None)


class _Execution:
    def __init__(self, text: str, trees: dict[str, nodes.List], functions: dict[str, Function], budget: Budget):
        self.text = text
        self.trees = trees
        self.functions = functions
        self.budget = budget
        self.name = ""
        self.node: nodes.Node = trees.get("") or nodes.List(0)  # the node that error messages name
        self.written = Writer()
        self.variables: list[tuple[str, object]] = []

    def fail(self, message: str) -> NoReturn:
        before = self.text[: self.node.pos]
        column = len(string_bytes(before[before.rfind("\n") + 1 :]))
        place = f":{before.count(chr(10)) + 1}:{column}"
        raise TemplateError(f"template: {place}: executing {quote(self.name)} at <{self.node}>: {message}", "execute")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Drop the variables declared inside at the end, also when break leaves a loop."""
        mark = len(self.variables)
        try:
            yield
        finally:
            del self.variables[mark:]

    # --- statements

    def walk_list(self, dot: object, body: nodes.List) -> None:
        for node in body.nodes:
            self.walk(dot, node)

    def walk(self, dot: object, node: nodes.Node) -> None:
        self.budget.count()
        match node:
            case nodes.Text():
                self.written.add(node.text)
            case nodes.Action():
                self.node = node
                value = self.pipeline(dot, node.pipe)
                if not node.pipe.declarations:
                    self.print(node, value)
            case nodes.Branch(kind="range"):
                self.range(dot, node)
            case nodes.Branch():
                with self.scope():
                    value = self.pipeline(dot, node.pipe)
                    if truth(value):
                        self.walk_list(value if node.kind == "with" else dot, node.body)
                    elif node.otherwise is not None:
                        self.walk_list(dot, node.otherwise)
            case nodes.Jump():
                raise _Break if node.kind == "break" else _Continue
            case nodes.Call():
                self.call_template(dot, node)
            case nodes.List():
                self.walk_list(dot, node)

    def range(self, dot: object, node: nodes.Branch) -> None:
        with self.scope():
            value = unwrap(self.pipeline(dot, node.pipe))
            self.node = node
            items = self.items(node, value)
            if not items:
                if node.otherwise is not None:
                    self.walk_list(dot, node.otherwise)
                return
            declarations, assign = node.pipe.declarations, node.pipe.assign
            for key, item in items:
                self.budget.count()
                with self.scope():
                    for place, declaration in enumerate(declarations):
                        content = key if len(declarations) > 1 and place == 0 else item
                        if assign:
                            self.assign(declaration.names[0], content)
                        else:  # the pipeline has declared it
                            self.variables.append((declaration.names[0], content))
                    try:
                        self.walk_list(item, node.body)
                    except _Continue:
                        continue
                    except _Break:
                        return

    def items(self, node: nodes.Branch, value: object) -> Iterable[tuple[object, object]]:
        """Return the (key, element) pairs that a range walks over."""
        if value is None:
            return []
        if isinstance(value, (Slice, Bytes, Map)):
            self.budget.count(len(value.data) if isinstance(value, Bytes) else len(value))
        if isinstance(value, Slice):
            wrap = Interface if value.holds_interfaces else lambda item: item
            return [(index, wrap(item)) for index, item in enumerate(value.items or ())]
        if isinstance(value, Bytes):
            return list(enumerate(value.data))
        if isinstance(value, Map):
            wrap = Interface if value.element == "interface {}" else lambda item: item
            return [(key, wrap(item)) for key, item in value.sorted_items()]
        if isinstance(value, int) and not isinstance(value, bool):
            if len(node.pipe.declarations) > 1:
                self.fail(f"can't use {value} to iterate over more than one variable")
            return zip(itertools.repeat(None), range(value)) if value > 0 else []
        self.node = node.pipe.commands[-1].arguments[0] if len(node.pipe.commands) == 1 else node.pipe
        self.fail(f"range can't iterate over {format_value(value, Verb('v'))}")

    def call_template(self, dot: object, node: nodes.Call) -> None:
        self.node = node
        if node.name not in self.trees:
            self.fail(f"template {quote(node.name)} not defined")
        value = self.pipeline(dot, node.pipe) if node.pipe is not None else None
        outside = self.name, self.variables
        self.name, self.variables = node.name, [("$", value)]
        self.walk_list(value, self.trees[node.name])
        self.name, self.variables = outside

    def print(self, node: nodes.Action, value: object) -> None:
        value = unwrap(value)
        if value is None:
            self.written.add("<no value>")
        elif callable(value):
            self.node = node
            self.fail(f"can't print {node} of type {type_name(value)}")
        elif (text := string_method(value)) is not None:
            self.written.add(text(value))
        elif isinstance(value, Struct):  # Go follows a pointer before printing
            self.written.add(struct_text(value, Verb("v")))
        else:
            self.written.add(format_value(value, Verb("v")))

    # --- pipelines

    def pipeline(self, dot: object, pipe: nodes.Pipe) -> object:
        self.node = pipe
        value = MISSING
        for command in pipe.commands:
            value = unwrap(self.command(dot, command, value))
        for declaration in pipe.declarations:
            if pipe.assign:
                self.assign(declaration.names[0], value)
            else:
                self.variables.append((declaration.names[0], value))
        return value

    def assign(self, name: str, value: object) -> None:
        for place in range(len(self.variables) - 1, -1, -1):
            if self.variables[place][0] == name:
                self.budget.count(len(self.variables) - place >> 4)
                self.variables[place] = (name, value)
                return
        self.fail(f"undefined variable: {name}")

    def variable(self, name: str) -> object:
        for distance, (known, value) in enumerate(reversed(self.variables)):
            if known == name:
                self.budget.count(distance >> 4)
                return value
        self.fail(f"undefined variable: {name}")

    def command(self, dot: object, command: nodes.Command, final: object) -> object:
        first, arguments = command.arguments[0], command.arguments
        match first:
            case nodes.Field() | nodes.Chain() | nodes.Variable():
                return self.field_chain(dot, first, arguments, final)
            case nodes.Identifier():
                return self.function(dot, first, command, arguments, final)
            case nodes.Pipe():
                self.not_a_function(arguments, final)
                return self.pipeline(dot, first)
        self.node = first
        self.not_a_function(arguments, final)
        if isinstance(first, nodes.Literal):
            return first.value
        if isinstance(first, nodes.Dot):
            return dot
        self.fail("nil is not a command")

    def not_a_function(self, arguments: list[nodes.Node], final: object) -> None:
        if len(arguments) > 1 or final is not MISSING:
            self.fail(f"can't give argument to non-function {arguments[0]}")

    def field_chain(
        self, dot: object, node: nodes.Field | nodes.Chain | nodes.Variable, arguments: list[nodes.Node], final: object
    ) -> object:
        """Evaluate .A.B, $x.A.B or (pipeline).A.B. The last name may be a method and gets the arguments."""
        self.node = node
        receiver, names = dot, node.names
        if isinstance(node, nodes.Variable):
            receiver, names = self.variable(node.names[0]), node.names[1:]
            if not names:
                self.not_a_function(arguments, final)
                return receiver
        elif isinstance(node, nodes.Chain):
            if isinstance(node.node, nodes.Nil):
                self.fail(f"indirection through explicit nil in {node}")
            receiver = self.argument(dot, "any", node.node)
        for name in names[:-1]:
            receiver = self.field(node, name, receiver, False)
        return self.field(node, names[-1], receiver, len(arguments) > 1 or final is not MISSING)

    def field(self, node: nodes.Node, name: str, receiver: object, has_arguments: bool) -> object:
        static_type = static_type_name(receiver)
        value = unwrap(receiver)
        if value is None:
            if isinstance(receiver, Interface):
                self.node = node
                self.fail(f"nil pointer evaluating {static_type}.{name}")
            return None
        method = self.method(value, name)
        if method is not None:
            if has_arguments:
                self.fail(f"wrong number of args for {name}: want 0 got 1")
            return method(value)
        if isinstance(value, Struct) and name in value.fields:
            if has_arguments:
                self.node = node
                self.fail(f"{name} has arguments but cannot be invoked as function")
            return value.fields[name]
        if isinstance(value, Map):
            if has_arguments:
                self.fail(f"{name} is not a method but has arguments")
            found = (value.items or {}).get(name, value.missing)
            return Interface(found) if value.element == "interface {}" else found
        self.node = node
        self.fail(f"can't evaluate field {name} in type {static_type}")

    @staticmethod
    def method(value: object, name: str) -> Callable[[object], object] | None:
        if name == "String":
            return string_method(value)
        return value.methods.get(name) if isinstance(value, Struct) else None

    # --- calls

    def function(
        self, dot: object, node: nodes.Identifier, command: nodes.Node, arguments: list[nodes.Node], final: object
    ) -> object:
        self.node = node
        name = node.name
        if name not in self.functions:
            self.fail(f"{quote(name)} is not a defined function")
        function, arguments = self.functions[name], arguments[1:]
        num_given, num_fixed = len(arguments) + (final is not MISSING), len(function.fixed)
        if function.rest is not None and num_given < num_fixed:
            self.fail(f"wrong number of args for {name}: want at least {num_fixed} got {len(arguments)}")
        if function.rest is None and num_given != num_fixed:
            self.fail(f"wrong number of args for {name}: want {num_fixed} got {num_given}")
        if name in ("and", "or"):
            return self.short_circuit(dot, name, arguments, final)
        kinds = [*function.fixed, *[function.rest] * (num_given - num_fixed)]
        values = [self.argument(dot, kind, argument) for kind, argument in zip(kinds, arguments)]
        if final is not MISSING:
            values.append(self.checked(final, kinds[num_given - 1]))
        self.budget.count_chars(sum(len(value) for value in map(unwrap, values) if isinstance(value, str)))
        try:
            result = function.call(*values)
        except FunctionError as error:
            self.node = command
            callee = f" {arguments[0]}" if name == "call" and arguments else ""
            self.fail(f"error calling {name}: {str(error).replace('non-function', 'non-function' + callee)}")
        if isinstance(result, str):
            self.budget.count_chars(len(result))
        return result

    def short_circuit(self, dot: object, name: str, arguments: list[nodes.Node], final: object) -> object:
        value = None
        for argument in arguments:
            value = unwrap(self.argument(dot, "any", argument))
            if truth(value) == (name == "or"):
                return value
        return value if final is MISSING else unwrap(final)

    def argument(self, dot: object, kind: str, node: nodes.Node) -> object:
        """Evaluate an argument. kind "string" accepts only strings."""
        self.node = node
        match node:
            case nodes.Dot():
                return self.checked(dot, kind)
            case nodes.Nil():
                if kind == "string":
                    self.fail("cannot assign nil to string")
                return None
            case nodes.Field() | nodes.Variable() | nodes.Chain():
                return self.checked(self.field_chain(dot, node, [node], MISSING), kind)
            case nodes.Pipe():
                return self.checked(self.pipeline(dot, node), kind)
            case nodes.Identifier():
                return self.checked(self.function(dot, node, node, [node], MISSING), kind)
            case nodes.Literal():
                if kind == "string" and node.kind != "string":
                    self.fail(f"expected string; found {node}")
                return node.value
        raise TypeError(f"{node} cannot be an argument")  # the parser makes no others

    def checked(self, value: object, kind: str) -> object:
        if kind == "string" and not isinstance(unwrap(value), str):
            if unwrap(value) is None and not isinstance(value, Interface):
                self.fail("invalid value; expected string")
            self.fail(f"wrong type for value; expected string; got {static_type_name(value)}")
        return value
