"""The syntax tree of a template. `str(node)` is the text that Go's error messages quote."""

from dataclasses import dataclass, field

from .formatting import quote


@dataclass
class Node:
    """pos: index of a character in the template's text."""

    pos: int


@dataclass
class Text(Node):
    """Plain text between actions, written as it is."""

    text: str


@dataclass
class List(Node):
    """A sequence of nodes, such as a whole template or the body of an `if`."""

    nodes: list[Node] = field(default_factory=list)


@dataclass
class Action(Node):
    """A pipeline in braces, whose value is written."""

    pipe: "Pipe"

    def __str__(self):
        return "{{%s}}" % self.pipe


@dataclass
class Pipe(Node):
    """assign: `=` instead of `:=`."""

    declarations: list["Variable"] = field(default_factory=list)
    commands: list["Command"] = field(default_factory=list)
    assign: bool = False

    def __str__(self):
        names = ", ".join(map(str, self.declarations))
        if names:
            names += " = " if self.assign else " := "
        return names + " | ".join(map(str, self.commands))


@dataclass
class Command(Node):
    """A function, method or value with its arguments: one part of a pipeline."""

    arguments: list[Node] = field(default_factory=list)

    def __str__(self):
        return " ".join(f"({a})" if isinstance(a, Pipe) else str(a) for a in self.arguments)


@dataclass
class Identifier(Node):
    """The name of a function."""

    name: str

    def __str__(self):
        return self.name


@dataclass
class Dot(Node):
    """The value `.`."""

    def __str__(self):
        return "."


@dataclass
class Nil(Node):
    """The constant `nil`."""

    def __str__(self):
        return "nil"


@dataclass
class Field(Node):
    """names of `.A.B` are A, B."""

    names: list[str]

    def __str__(self):
        return "".join("." + name for name in self.names)


@dataclass
class Variable(Node):
    """names of `$x.A` are $x, A."""

    names: list[str]

    def __str__(self):
        return ".".join(self.names)


@dataclass
class Chain(Node):
    """`(pipeline).A.B`"""

    node: Node
    names: list[str]

    def __str__(self):
        head = f"({self.node})" if isinstance(self.node, Pipe) else str(self.node)
        return head + "".join("." + name for name in self.names)


@dataclass
class Literal(Node):
    """kind: bool, number or string. text: as written in the template."""

    kind: str
    text: str
    value: bool | int | float | complex | str

    def __str__(self):
        return self.text


@dataclass
class Branch(Node):
    """kind: if, range or with."""

    kind: str
    pipe: Pipe
    body: List
    otherwise: List | None

    def __str__(self):
        return "{{%s %s}}" % (self.kind, self.pipe)


@dataclass
class Jump(Node):
    """kind: break or continue."""

    kind: str

    def __str__(self):
        return "{{%s}}" % self.kind


@dataclass
class Call(Node):
    """`{{template "name" pipeline}}`"""

    name: str
    pipe: Pipe | None

    def __str__(self):
        return "{{template %s%s}}" % (quote(self.name), "" if self.pipe is None else f" {self.pipe}")


@dataclass
class Mark(Node):
    """kind: end or else. Exists only while parsing."""

    kind: str

    def __str__(self):
        return "{{%s}}" % self.kind
