"""The options of the backend: one frozen, validated dataclass.

    torch.compile(model, backend="domino", options={"slices": 2, "dump_dir": "out"})

Each field of `Options` is declared once, with its default, its meaning and its check; the class
docstring, the README's table (`python -m domino_compile.options`) and every error message are
rendered from these declarations. An unknown name or a bad value raises `OptionError`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Self

from domino_compile.errors import OptionError, did_you_mean
from domino_compile.options import checks
from domino_compile.options.checks import Check
from domino_compile.options.pass_names import PASS_NAMES

Guard = Literal["predict", "measure", "off"]
Lowering = Literal["inductor", "eager"]
Verify = Literal["off", "on", "strict"]
Transport = Literal["nccl", "auto", "symmetric"]
Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


# For deployed scripts that cannot be edited, and for settings that belong to the machine.
ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "DOMINO_COMPILE_DISABLE": "`1` compiles with Inductor alone; `0` or empty has no effect.",
        "DOMINO_COMPILE_ENABLE": "`1` calls `domino_compile.enable()` when torch is imported; `0`"
        " or empty has no effect.",
        "DOMINO_COMPILE_OPTIONS": "Options for `DOMINO_COMPILE_ENABLE`, as a JSON object; empty has"
        " no effect.",
        "DOMINO_COMPILE_DUMP_DIR": "A path that overrides `dump_dir`; empty has no effect.",
        "DOMINO_COMPILE_RATES": "A file of device rates for the cost model, written by"
        " `domino calibrate`; must be the same on every rank. Empty has no effect.",
    }
)


def _option(
    default: Any,
    doc: str,
    check: Check,
    *,
    in_digest: bool = True,
    identity: Callable[[Any], object] = checks.canonical,
    factory: Any = None,
) -> Any:
    """Declare one option.

    Args:
        default: The default value.
        doc: The meaning, in one or two sentences.
        check: Validates a value.
        in_digest: Whether the option influences the compiled program.
        identity: Returns the JSON data that `digest` hashes for a value.
        factory: Makes the default if the default is mutable.
    """
    metadata = {"doc": doc, "check": check, "in_digest": in_digest, "identity": identity}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one compile. Every instance is valid."""

    slices: int | Literal["auto"] = _option(
        "auto",
        "Number of slices to cut the batch into; 1 only reorders. 'auto' lets the cost model choose"
        " a cut, or none. A number is used without asking the cost model, if the graph can be cut.",
        checks.or_word(checks.integer(minimum=1), "auto"),
    )
    columns: int | Literal["auto"] = _option(
        "auto",
        "Number of parts to cut the columns of matrix products in front of collectives into; 1"
        " cuts none. 'auto' is chosen together with `slices`, and cuts none if `slices` is a"
        " number.",
        checks.or_word(checks.integer(minimum=1), "auto"),
    )
    margin: float = _option(
        0.02,
        "The share of the uncut step's predicted time that a cut must save to be chosen.",
        checks.fraction(),
    )
    guard: Guard = _option(
        "predict",
        "Protects against a slower program: 'predict' cuts if the predicted gain reaches `margin`;"
        " 'measure' also times the uncut program during the first steps and keeps the faster one;"
        " 'off' cuts whenever `memory_cap` allows it.",
        checks.one_of("predict", "measure", "off"),
    )
    lowering: Lowering = _option(
        "inductor",
        "Runs the rewritten graphs with Inductor, or one torch operator at a time (for debugging).",
        checks.one_of("inductor", "eager"),
    )
    mode: Mode = _option(
        "default",
        "The same as torch.compile's argument `mode`, which cannot be combined with `options`.",
        checks.one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    )
    batch: Mapping[str, int] | None = _option(
        None,
        "The inputs that carry the batch, each with its batch dimension; None infers them.",
        checks.optional(checks.dims_by_name()),
    )
    link: str | None = _option(
        None,
        "The link table for the cost model; None chooses one for the device.",
        checks.optional(checks.link()),
        identity=checks.link_identity,
    )
    device: str | None = _option(
        None,
        "The device whose rates the cost model uses, to plan for another machine; None uses the"
        " device that the graph runs on.",
        checks.optional(checks.device()),
    )
    watch: int = _option(
        0,
        "Time a collective once every `watch` calls of a graph, and compile the graph again if the"
        " link has become permanently slower or faster; 0 never does.",
        checks.integer(minimum=0),
        in_digest=False,
    )
    transport: Transport = _option(
        "nccl",
        "What carries the collectives that computation hides: 'nccl'; 'symmetric' uses the copy"
        " engines of GPUs on one host, which hold no multiprocessors, wherever it can; 'auto' does"
        " so where it is expected to be faster. The report gives the reasons for the others.",
        checks.one_of("nccl", "auto", "symmetric"),
    )
    require: Literal["overlap"] | None = _option(
        None,
        "'overlap' raises an error when a model is compiled if a tensor-parallel collective is"
        " predicted not to be hidden; None does not.",
        checks.optional(checks.one_of("overlap")),
    )
    memory_cap: float = _option(
        0.03,
        "How much more memory a step may need than with Inductor alone, as a fraction of the"
        " estimated peak.",
        checks.number(minimum=0),
    )
    disable_passes: tuple[str, ...] = _option(
        (), "Passes to skip, for debugging.", checks.some_of(*PASS_NAMES)
    )
    inductor: Mapping[str, object] = _option(
        None,
        "Options for Inductor. Those that would undo the schedule are refused.",
        checks.inductor_options(),
        factory=dict,
    )
    dump_dir: str | None = _option(
        None,
        "A folder to write the graphs, schedules and plan of every compile to.",
        checks.optional(checks.path()),
        in_digest=False,
    )
    check_ranks: bool = _option(
        True,
        "Compare the plans of all ranks while they compile; if they differ, all ranks use Inductor"
        " alone, or raise an error instead of hanging.",
        checks.flag(),
        in_digest=False,
    )
    check_timeout_s: float = _option(
        600.0,
        "How many seconds to wait for the other ranks in that comparison.",
        checks.number(minimum=0, exclusive=True),
        in_digest=False,
    )
    verify: Verify = _option(
        "on",
        "Checks that each pass leaves every value of the graph as it was, and that the emitted code"
        " waits for every collective in the agreed order: 'on' leaves a graph to Inductor alone if"
        " that is not established; 'strict' raises an error; 'off' checks nothing.",
        checks.one_of("off", "on", "strict"),
    )
    disable: bool = _option(
        False, "Compile with Inductor alone, with `mode` and `inductor` as given.", checks.flag()
    )

    def __post_init__(self) -> None:
        """Check every value and store it in its canonical form.

        Raises:
            OptionError: a value is not allowed.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            object.__setattr__(self, option.name, _checked(option, value))

    @classmethod
    def parse(cls, options: Mapping[str, object] | None = None, mode: str | None = None) -> Self:
        """Make options from the arguments that torch.compile passes to a backend.

        Args:
            options: torch.compile's `options`; the names are the fields of this class.
            mode: torch.compile's `mode`.

        Raises:
            OptionError: A name is unknown, a value is not allowed, or two modes are given.
        """
        if options is None:
            options = {}
        if not isinstance(options, Mapping):
            raise OptionError(f"options: expected a mapping, got {options!r}")
        names = [option.name for option in fields(cls)]
        for name in options:
            if name not in names:
                raise OptionError(_unknown(name, names))
        given: dict[str, Any] = dict(options)
        if mode is not None and given.setdefault("mode", mode) != mode:
            raise OptionError(f"mode: given twice, as {mode!r} and as {given['mode']!r}")
        return cls(**given)

    def with_environment(self, env: Mapping[str, str]) -> Self:
        """Return these options with the overrides of `ENVIRONMENT` that are set in `env`.

        Args:
            env: The environment, usually `os.environ`.

        Raises:
            OptionError: DOMINO_COMPILE_DISABLE is neither 0 nor 1.
        """
        changes: dict[str, Any] = {}
        disable = env.get("DOMINO_COMPILE_DISABLE", "").strip()
        if disable not in ("", "0", "1"):
            raise OptionError(f"DOMINO_COMPILE_DISABLE: got {disable!r}, allowed: '0' or '1'")
        if disable == "1":
            changes["disable"] = True
        if dump_dir := env.get("DOMINO_COMPILE_DUMP_DIR", "").strip():
            changes["dump_dir"] = dump_dir
        return replace(self, **changes)

    def digest(self) -> str:
        """Return 64 hex digits that change with every option that shapes the compiled program.

        The same options give the same digest in every process and on every rank.
        """
        relevant = {
            option.name: option.metadata["identity"](getattr(self, option.name))
            for option in fields(self)
            if option.metadata["in_digest"]
        }
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """Return one line with every option that differs from its default."""
        standard = Options()
        changed = [
            f"{option.name}={_plain(getattr(self, option.name))!r}"
            for option in fields(self)
            if getattr(self, option.name) != getattr(standard, option.name)
        ]
        return " ".join(changed) or "defaults"

    def as_dict(self) -> dict[str, object]:
        """Return all values by name, with mappings as plain dicts; `parse` accepts the result."""
        return {option.name: _plain(getattr(self, option.name)) for option in fields(self)}

    def __hash__(self) -> int:
        """Hash the fields that are always hashable; mappings only take part in equality."""
        return hash((self.slices, self.lowering, self.mode, self.memory_cap, self.disable_passes))

    def __reduce__(self) -> tuple[Callable[..., "Options"], tuple[dict[str, object]]]:
        """Pickle by value, because the read-only mappings cannot be pickled."""
        return type(self).parse, (self.as_dict(),)


def _checked(option: Field[Any], value: object) -> object:
    check: Check = option.metadata["check"]
    try:
        return check.run(value)
    except ValueError as error:
        reason = f" ({error})" if str(error) else ""
        got = repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + "..."
        message = f"{option.name}: got {got}, allowed: {check.allowed}{reason}"
        raise OptionError(message) from None


def _unknown(name: object, names: list[str]) -> str:
    allowed = f"allowed: {', '.join(names)}"
    if isinstance(name, str) and name.replace("-", "_") in checks.inductor_option_types():
        return f"{name!r} is an Inductor option; pass it as inductor={{{name!r}: ...}}; {allowed}"
    return f"unknown option {name!r}{did_you_mean(name, names) or ';'} {allowed}"


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def _default(option: Field[Any]) -> object:
    return _plain(getattr(Options(), option.name))


def markdown() -> str:
    """Return the options and the environment overrides as two Markdown tables."""
    rows = ["| Option | Default | Allowed | Meaning |", "|---|---|---|---|"]
    for option in fields(Options):
        allowed, doc = option.metadata["check"].allowed, option.metadata["doc"]
        rows.append(f"| `{option.name}` | `{_default(option)!r}` | {allowed} | {doc} |")
    rows += ["", "| Environment variable | Meaning |", "|---|---|"]
    rows += [f"| `{name}` | {doc} |" for name, doc in ENVIRONMENT.items()]
    return "\n".join(rows)


def _docstring() -> str:
    lines = [str(Options.__doc__), "", "Attributes:"]
    for option in fields(Options):
        doc, allowed = option.metadata["doc"], option.metadata["check"].allowed
        lines.append(f"    {option.name}: {doc} Allowed: {allowed}. Default: {_default(option)!r}.")
    lines += ["", "Environment overrides (for deployed scripts that cannot be edited):"]
    lines += [f"    {name}: {doc}" for name, doc in ENVIRONMENT.items()]
    return "\n".join(lines)


Options.__doc__ = _docstring()
