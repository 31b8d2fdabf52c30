"""A name → class table whose errors name the choices: strategies, core LMs, codecs and all else that has a name."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from espnet_ext.errors import UserError

T = TypeVar("T", bound=type)
U = TypeVar("U")


def _qualified_name(item: type) -> str:
    return f"{item.__module__}:{item.__qualname__}"


def _parameters(kind: type) -> list[inspect.Parameter]:
    """Those of the constructor, and of the base classes' ones that it hands its keywords on to."""
    found: dict[str, inspect.Parameter] = {}
    for owner in [base for base in kind.__mro__ if "__init__" in vars(base)]:
        parameters = inspect.signature(owner).parameters
        found = {**parameters, **found}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            break
    several = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return [one for one in found.values() if one.kind not in several]


def _default(kind: type, parameter: inspect.Parameter) -> object:
    """The default of an option, as a yaml would say it; of a dataclass's field also one that is made anew each time."""
    if dataclasses.is_dataclass(kind):
        for one in dataclasses.fields(kind):
            if one.name == parameter.name and one.default_factory is not dataclasses.MISSING:
                return one.default_factory()
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default


class Registry(Generic[T]):
    """Named classes of one kind.

    Args:
        kind: what the classes are, in the words of the user's option ("decoding", "codec").
        entry_point_group: group under which other packages announce their own classes; they are loaded
            on the first look-up.
        modules: name → module of this package that registers it, imported when the class is first asked for.

    >>> fruits: Registry[type] = Registry("fruit")
    >>> @fruits.register("apple")
    ... class Apple: ...
    >>> fruits["apple"].__name__, list(fruits)
    ('Apple', ['apple'])
    >>> fruits["pear"]
    Traceback (most recent call last):
    espnet_ext.errors.UserError: fruit must be one of ['apple'], got 'pear'
    """

    def __init__(
        self, kind: str, entry_point_group: str | None = None, modules: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._group = entry_point_group
        self._modules = dict(modules or {})
        self._classes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A class decorator that adds the class under `name`.

        Args:
            name: lower-case name used in yaml files and on the command line.

        Returns:
            The decorator; it returns the class unchanged.

        Raises:
            UserError: if another class already has this name, or the name is not lower case.
        """
        if name != name.lower():
            raise UserError(f"{self.kind} name must be lower case, got {name!r}")

        def add(item: T) -> T:
            if self._modules.get(name) not in (None, item.__module__):
                self._import(name)
            owner = self._classes.get(name)
            # the same class seen through two imports (``python -m`` does that) is not a duplicate
            if owner is not None and _qualified_name(owner) != _qualified_name(item):
                taken, newcomer = _qualified_name(owner), _qualified_name(item)
                raise UserError(f"{self.kind} {name!r} is already {taken}; {newcomer} needs another name")
            self._classes[name] = item
            return item

        return add

    def _import(self, name: str) -> None:
        """Import the module that registers a class, unless it has done so."""
        if name in self._modules and name not in self._classes:
            importlib.import_module(self._modules[name])

    def _load_entry_points(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            for point in entry_points(group=group):
                try:
                    point.load()
                except Exception as error:
                    self._group = group  # the next look-up tells it as well
                    raise RuntimeError(
                        f"plug-in {point.name} = {point.value} of {group} does not load: {error}"
                    ) from error

    def __getitem__(self, name: str) -> T:
        self._load_entry_points()
        if name not in self:
            raise UserError(f"{self.kind} must be one of {list(self)}, got {name!r}")
        self._import(name)
        return self._classes[name]

    def options(self, name: str) -> dict[str, object]:
        """What a user may say about the named class: option → default.

        Those are the keyword-only parameters of its constructor, with those of its base class where it hands keywords
        on to it; all parameters, where none is keyword-only.

        Args:
            name: registered name.

        Returns:
            The options.

        Raises:
            UserError: if the name is unknown.
        """
        parameters = _parameters(self[name])
        own = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY] or parameters
        return {one.name: _default(self[name], one) for one in own}

    def check_options(self, name: str, conf: Mapping[str, object]) -> None:
        """Refuse options that the named class does not take.

        Args:
            name: registered name.
            conf: options a user gave.

        Raises:
            UserError: if the name or an option is unknown; the message lists those there are.
        """
        known = list(self.options(name))
        unknown = sorted(set(conf) - set(known), key=str)
        if unknown:
            raise UserError(f"{self.kind}_conf of {name} must be among {known}, got {unknown}")

    def build(self: Registry[type[U]], name: str, /, **options: object) -> U:
        """An object of the named class.

        Args:
            name: registered name.
            **options: of its constructor.

        Returns:
            The object.

        Raises:
            UserError: if the name or an option is unknown, or a value is not allowed; the message lists what is.
        """
        self.check_options(name, options)
        return self[name](**options)

    def complete(self, name: str, conf: Mapping[str, object]) -> dict[str, object]:
        """The options with the defaults of those that are not given, as config.yaml tells them.

        Args:
            name: registered name.
            conf: options a user gave.

        Returns:
            All options, as far as they have a default.

        Raises:
            UserError: if the name or an option is unknown.
        """
        self.check_options(name, conf)
        defaults = {key: value for key, value in self.options(name).items() if value is not inspect.Parameter.empty}
        return {**defaults, **conf}

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return isinstance(name, str) and (name in self._classes or name in self._modules)

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(sorted({*self._classes, *self._modules}))

    def __len__(self) -> int:
        self._load_entry_points()
        return len({*self._classes, *self._modules})
