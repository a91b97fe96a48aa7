"""Options from the fields of a configuration: name, type, help and default are the field's own.

    @click.command(cls=Command, example="deltactl featurize kinetics/shards --size 256")
    @click.argument("shards", required=False)
    @configured(FeaturizeConfig, {"Features": ("backbone", "size")}, ("seed", "out"))
    @yes_option
    def command(config: FeaturizeConfig, yes: bool) -> None:

The command is handed the configuration, put together by `deltactl.configs.load.resolve` from what was given: options
and arguments of a field's name, `--config` and `--set`. A field of a model inside is named with dots and its option
after its last part: `network.token_dim` is `--token-dim`. Importing this costs pydantic, but nothing heavier.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from deltactl.commands.options import Decorated, Sizes, config_option, set_option
from deltactl.configs.base import FOLLOWS, Config
from deltactl.configs.frame_size import FrameSize
from deltactl.configs.values import Form, OneOf, Variable, marks, plain_type

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ConfigT = TypeVar("ConfigT", bound=Config)
Given = Mapping[str, Any]
"""The values of the fields that were given on the command line."""


def configured(
    model: type[ConfigT],
    sections: Mapping[str, tuple[str, ...]],
    shared: tuple[str, ...] = (),
    *,
    names: Mapping[str, str] | None = None,
    others: Mapping[str, str] | None = None,
    required: Collection[str] = (),
    needed: Collection[str] = (),
    start: Callable[[Given], str | None] = lambda given: None,  # noqa: ARG005
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add options for fields of a model, `--config` and `--set`, and hand the command the model as `config`.

    `sections` maps headings of the help page to fields, `shared` are fields under the headings that all commands have.
    `names` are those of options that are not called as their field, `others` maps parameters of the command that are
    another way to give a field to that field. `required` are the fields whose option must be given;
    those `needed` may as well stand in a preset, which the command itself sees to. `start` returns the file or preset
    to start from where there is no `--config`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.pass_context
        @functools.wraps(command)
        def call(context: click.Context, /, assignments: tuple[str, ...], **values: Any) -> None:
            from deltactl.configs.load import resolve

            parameters = {_parameter(name): name for name in (*model.model_fields, *headings)} | dict(others or {})
            fields = {name: values.pop(name) for name in list(values) if name in parameters}
            given: dict[str, Any] = {}
            for name, value in fields.items():
                if _was_given(context, name):
                    if (field := parameters[name]) in given:
                        raise click.UsageError(f"{field} is given twice; give it once", context)
                    given[field] = value
            preset = values.pop("config") or start(given)
            command(resolve(model, config=preset, flags=given, assignments=assignments), **values)

        headings = {name: heading for heading, fields in sections.items() for name in fields}
        decorated: Callable[..., None] = config_option(set_option(call))
        for field in reversed([*headings, *shared]):
            decorated = option_of(
                model,
                field,
                name=(names or {}).get(field),
                heading=headings.get(field),
                required=field in required,
                needed=field in needed,
            )(decorated)
        return decorated

    return decorate


def option_of(
    model: type[BaseModel], field: str, *, name: str | None = None, heading: str | None = None, **attributes: Any
) -> Callable[[Decorated], Decorated]:
    """Add the option of one field, with a default of its own or other click attributes where they are given."""
    info = _field(model, field)
    kind, forms = plain_type(info.annotation), marks(info, Form)
    words = name or "--" + field.rpartition(".")[2].replace("_", "-")
    settings: dict[str, Any] = {"default": None if info.is_required() else info.default, "type": _type_of(info, kind)}
    if kind is bool:
        settings |= {"is_flag": True, "type": None}
        words += "" if info.default is False else f"/--no-{words.removeprefix('--')}"
    elif forms:
        settings["metavar"] = forms[-1].text
    if isinstance(settings["type"], Numbers):
        settings["metavar"] = "N,N"
    elif get_origin(kind) is tuple:
        settings["multiple"] = True
    settings |= {"help": " ".join((info.description or "").split()), "field": info, "heading": heading}
    return click.option(words, _parameter(field), cls=FieldOption, **{**settings, **attributes})


def _field(model: type[BaseModel], field: str) -> FieldInfo:
    """Return a field of the model, or of one inside."""
    outer, _, inner = field.partition(".")
    info = model.model_fields[outer]
    if not inner:
        return info
    assert isinstance(info.annotation, type)
    assert issubclass(info.annotation, BaseModel)
    return _field(info.annotation, inner)


def _parameter(field: str) -> str:
    """Return what click calls a field, which takes no dots."""
    return field.replace(".", "__")


class FieldOption(click.Option):
    """The option of a field: its help ends with the field's default, environment variables and limits."""

    def __init__(
        self,
        *arguments: Any,
        field: FieldInfo,
        heading: str | None,
        needed: bool = False,
        default: Any = None,
        **attributes: Any,
    ) -> None:
        hidden = needed or attributes.get("required", False)
        if not hidden and default is not None:
            attributes["default"] = default
        super().__init__(*arguments, **attributes)
        self.heading = heading
        """The heading of the help page that it stands under."""
        self._variables = [name for variable in marks(field, Variable) for name in variable.names]
        self._needed = needed or field.is_required()
        self._shown = "" if hidden or self._needed else self._default_text(field)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what stands in brackets behind the help."""
        extra = super().get_help_extra(ctx)
        extra.pop("default", None)
        if self._variables:
            extra["envvars"] = tuple(self._variables)
        if self._shown:
            extra["default"] = self._shown
        if self._needed:
            extra["required"] = "required"
        return extra

    def _default_text(self, field: FieldInfo) -> str:
        value: Any = field.default
        if self.is_flag and value is not None:
            names = self.opts if value else self.secondary_opts
            return names[0].removeprefix("--") if self.secondary_opts else ""
        if value is None or value == ():
            return ""
        if isinstance(value, tuple):
            text = ",".join(map(str, value))
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"as at hand, else {text}" if field.json_schema_extra == FOLLOWS else text


# --- types -----------------------------------------------------------------------------------------------------------


class Names(click.Choice[str]):
    """A choice of names out of a registry, which is asked when a value is read or the help is shown."""

    def __init__(self, registry: OneOf) -> None:
        self._registry = registry
        self.file = registry.file
        """The file that may stand in place of a name, such as `FILE.yaml`; empty: none may."""
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        return tuple(self._registry.known())

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """Return the names, and the file that may stand in place of one."""
        return f"[{'|'.join([*self.choices, *([self.file] if self.file else [])])}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
        """Return the names that go on so; where none does and it may be a file, files."""
        from click.shell_completion import CompletionItem

        found = super().shell_complete(ctx, param, incomplete)
        return found or ([CompletionItem(incomplete, type="file")] if self.file else [])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name; another one is refused with the nearest that there is."""
        try:
            return self._registry.check(str(value))
        except ValueError as error:
            self.fail(f"{value!r}, {error}", param, ctx)


class Numbers(click.ParamType[list[int]]):
    """Whole numbers, such as `1,3`."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the numbers."""
        try:
            return [int(number) for number in (value.split(",") if isinstance(value, str) else value)]
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers, such as 1,3", param, ctx)


class Checked(click.ParamType[str]):
    """Text that the field's own validators look at."""

    name = "text"

    def __init__(self, validators: list[AfterValidator]) -> None:
        self._validators = validators

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; wrong usage where a validator refuses it."""
        for each in self._validators:
            check: Any = each.func
            try:
                check(value)
            except ValueError as error:
                self.fail(f"{value!r}; {error}", param, ctx)
        return str(value)


def _type_of(field: FieldInfo, kind: Any) -> click.ParamType[Any]:
    above, high = _limit(field, "gt"), _limit(field, "le")
    low = _limit(field, "ge") if above is None else above
    if names := marks(field, OneOf):
        return Names(names[-1])
    if get_origin(kind) is Literal:
        return click.Choice(list(get_args(kind)))
    if kind is FrameSize:
        return Sizes()
    if kind is int:
        return click.IntRange(low, high) if (low, high) != (None, None) else click.INT
    if kind is float:
        return click.FloatRange(low, high, min_open=above is not None)
    if get_origin(kind) is tuple and get_args(kind)[0] is int:
        return Numbers()
    return Checked(checks) if (checks := marks(field, AfterValidator)) else click.STRING


def _limit(field: FieldInfo, name: str) -> Any:
    """Return a limit that pydantic holds a number to: `ge`, `gt` or `le`; None where there is none."""
    return next((value for each in marks(field, object) if (value := getattr(each, name, None)) is not None), None)


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
