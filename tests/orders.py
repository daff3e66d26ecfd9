"""Finds where code goes through a set in whatever order it has: that order follows the hashes of strings and the addresses
of objects, so it is another one in every process.

What is a set is read off the code: displays and comprehensions, `set()`, annotations (arguments, locals, fields, what a
function returns, values of a dict), operators between sets, and arguments for any `Iterable` that are given a set somewhere. A field
or function counts by its name, wherever it is used, if everything of that name is a set.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

SETS = {"set", "frozenset", "AbstractSet", "MutableSet", "Set"}
MAPPINGS = {"dict", "defaultdict", "Mapping", "MutableMapping"}
ANY = {"Iterable", "Collection", "Reversible"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
READ_METHODS = {"get", "pop", "setdefault"}
ORDERLESS = {"sorted", "min", "max", "sum", "any", "all", "len", "set", "frozenset", "Counter"}
"""What they give does not depend on the order of what they are given, unless a `key` makes different things equal."""

LAZY = {"map", "filter", "enumerate", "zip", "chain", "iter", "reversed"}
ORDERED = LAZY | {"list", "tuple", "deque", "fromkeys", "join", "extend", "OrderedDict"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_with_order(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, int]]:
    """The paths and lines at which the order of a set comes to light."""
    fields, functions = declared(trees.values())
    given = {place for tree in trees.values() for place in Orders(tree, fields, functions).gives()}
    for path, tree in trees.items():
        for line in Orders(tree, fields, functions, given).found():
            yield path, line


@dataclass
class Names:
    """What is known by its name to be a set, a mapping to sets, or something else."""

    kinds: dict[str, set[str]] = field(default_factory=dict)

    def learn(self, name: str, kind: str) -> None:
        self.kinds.setdefault(name, set()).add(kind)

    def kind(self, name: str) -> str:
        (kind, *others) = self.kinds.get(name, {"other"})
        return "other" if others else kind


def kind_of(annotation: ast.expr | None) -> str:
    match annotation:
        case ast.Subscript(ast.Name(name)) | ast.Name(name) if name in SETS:
            return "set"
        case ast.Subscript(ast.Name(name), ast.Tuple([_, value])) if name in MAPPINGS:
            return "mapping" if kind_of(value) == "set" else "other"
        case ast.BinOp(left, ast.BitOr(), right):
            return next((kind for kind in (kind_of(left), kind_of(right)) if kind != "other"), "other")
        case ast.Subscript(ast.Name("Final" | "ClassVar" | "Annotated"), inner):
            return kind_of(inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
    return "other"


def declared(trees: Iterable[ast.Module]) -> tuple[Names, Names]:
    """The fields and the functions of all modules by their names."""
    fields, functions = Names(), Names()
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.ClassDef():
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                        fields.learn(each.target.id, kind_of(each.annotation))
            case ast.AnnAssign(ast.Attribute(attr=name), annotation):
                fields.learn(name, kind_of(annotation))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                kinds = fields if any(_is_property(each) for each in node.decorator_list) else functions
                kinds.learn(node.name, kind_of(node.returns))
    return fields, functions


def _is_property(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Name) and decorator.id in {"property", "cached_property"}


class Orders:
    """Gives, for one module, the lines in which the order of a set comes to light."""

    def __init__(
        self, tree: ast.Module, fields: Names, functions: Names, given: Iterable[tuple[str, int | str]] = ()
    ) -> None:
        self._tree = tree
        self._fields = fields
        self._functions = functions
        self._given = frozenset(given)
        self._locals = Names()
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def found(self) -> list[int]:
        return sorted({node.lineno for nodes in self._scopes() for node in nodes if self._shows_order(node)})

    def gives(self) -> Iterator[tuple[str, int | str]]:
        """The functions that are given a set, and as which of their arguments."""
        for nodes in self._scopes():
            for call in (node for node in nodes if isinstance(node, ast.Call)):
                for place, argument in enumerate(call.args):
                    if self._is_set(argument):
                        yield _name(call.func), place
                for keyword in call.keywords:
                    if keyword.arg and self._is_set(keyword.value):
                        yield _name(call.func), keyword.arg

    def _scopes(self) -> Iterator[list[ast.AST]]:
        """The module and every function in it, whose names are the ones that are known meanwhile."""
        for scope in (self._tree, *(node for node in ast.walk(self._tree) if isinstance(node, Function))):
            nodes = list(_within(scope))
            self._locals = self._read_locals(scope, nodes)
            yield nodes

    def _read_locals(self, scope: ast.AST, nodes: list[ast.AST]) -> Names:
        names = self._locals = Names()
        if isinstance(scope, Function):
            arguments = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
            is_method = bool(arguments) and arguments[0].arg in {"self", "cls"}
            for place, each in enumerate(arguments, -is_method):
                is_given = not self._given.isdisjoint({(scope.name, place), (scope.name, each.arg)})
                names.learn(
                    each.arg, "set" if is_given and _is_any(each.annotation) else kind_of(each.annotation)
                )
        for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
            match node:
                case ast.AnnAssign(ast.Name(name), annotation):
                    names.learn(name, kind_of(annotation))
                case ast.Assign([ast.Name(name)], value) | ast.NamedExpr(ast.Name(name), value):
                    names.learn(name, "set" if self._is_set(value) else "other")
        return names

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Name(name):
                return self._locals.kind(name) == "set"
            case ast.Attribute(attr=name):
                return self._fields.kind(name) == "set"
            case ast.Call(ast.Name(name)):
                return name in {"set", "frozenset"} or self._functions.kind(name) == "set"
            case ast.Call(ast.Attribute(owner, name)) if name in SET_METHODS and self._is_set(owner):
                return True
            case ast.Call(ast.Attribute(owner, name)) if name in READ_METHODS:
                return self._is_mapping_to_sets(owner)
            case ast.Call(ast.Attribute(_, name)):
                return self._functions.kind(name) == "set"
            case ast.Subscript(owner):
                return self._is_mapping_to_sets(owner)
            case ast.BinOp(left, ast.BitOr() | ast.BitAnd() | ast.BitXor() | ast.Sub(), right):
                return any(self._is_set(side) or _is_view(side) for side in (left, right))
            case ast.IfExp(_, one, other):
                return self._is_set(one) or self._is_set(other)
            case ast.BoolOp(_, values):
                return any(map(self._is_set, values))
            case ast.NamedExpr(_, value) | ast.Await(value):
                return self._is_set(value)
        return False

    def _is_mapping_to_sets(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(name):
                return self._locals.kind(name) == "mapping"
            case ast.Attribute(attr=name):
                return self._fields.kind(name) == "mapping"
        return False

    def _shows_order(self, node: ast.AST) -> bool:
        match node:
            case ast.For(iter=iterated) | ast.YieldFrom(iterated):
                return self._is_set(iterated) or self._is_lazy_over_a_set(iterated)
            case ast.ListComp() | ast.GeneratorExp() | ast.DictComp():
                shown = any(self._is_set(each.iter) for each in node.generators)
                return shown and not self._is_given_to_the_orderless(node)
            case ast.Starred(value):
                parent = self._parents[node]
                is_lost = isinstance(parent, ast.Set) or (
                    isinstance(parent, ast.Call) and _is_orderless(parent)
                )
                return self._is_set(value) and not is_lost
            case ast.Assign([ast.Tuple([_, _, *_])], value):
                return self._is_set(value)
            case ast.Call(ast.Attribute(owner, "pop"), []):
                return self._is_set(owner)
            case ast.Call(function, arguments) if _name(function) in ORDERED:
                shown = any(map(self._is_set, arguments))
                return shown and not self._is_given_to_the_orderless(node)
            case ast.Call(function, [argument, *_]) if _name(function) in ORDERLESS:
                return not _is_orderless(node) and self._is_set(argument)
        return False

    def _is_lazy_over_a_set(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and _name(node.func) in LAZY and any(map(self._is_set, node.args))

    def _is_given_to_the_orderless(self, node: ast.AST) -> bool:
        parent = self._parents[node]
        if isinstance(parent, ast.Call) and node in parent.args:
            if _name(parent.func) in LAZY:
                return self._is_given_to_the_orderless(parent)
            return _is_orderless(parent)
        if isinstance(parent, ast.comprehension):
            whole = self._parents[parent]
            return isinstance(whole, ast.SetComp) or self._is_given_to_the_orderless(whole)
        return False


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    """All of a scope but for the functions in it."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, Function):
            yield node
            yield from _within(node)


def _is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Subscript) and _name(annotation.value) in ANY


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_orderless(call: ast.Call) -> bool:
    has_key = any(keyword.arg == "key" for keyword in call.keywords)
    return _name(call.func) in ORDERLESS and not has_key


def _is_view(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) == "keys"
