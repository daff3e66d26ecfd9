"""What an operator may set, with its defaults: config.toml, `WEFT_SECTION_KEY` variables, flags; later ones win.

The rule of the file: pure. The file's text, the environment and the flags are handed in; what is wrong with them is told in
one line that names the key.
"""

from __future__ import annotations

import ipaddress
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Final, Literal

import msgspec

from mesh.directory.bootstrap import parse_entry
from protocols import limits
from protocols.addresses import parse_address
from protocols.errors import Malformed, UserError
from protocols.records import Label

Multiaddr = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^/ip[46]/[0-9a-fA-F.:]+/tcp/[0-9]{1,5}$",
        description="a listen address such as /ip4/0.0.0.0/tcp/4747",
    ),
]
ForeignMultiaddr = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(/ip[46]/[0-9a-fA-F.:]+/tcp/[0-9]{1,5})?$",
        description="a listen address such as /ip4/0.0.0.0/tcp/4749, or empty",
    ),
]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535, description="a port from 0 (any free one) to 65535")]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40, description="a whole number, 0 or more")]
Ranks = Annotated[int, msgspec.Meta(ge=1, le=64, description="a whole number from 1 to 64")]
Name = Annotated[str, msgspec.Meta(max_length=64, description="a text of at most 64 characters")]
Text = Annotated[str, msgspec.Meta(description="a text")]
Labels = Annotated[
    tuple[Label, ...],
    msgspec.Meta(
        max_length=limits.LABELS_MAX,
        description='a list of labels such as ["zone=eu", "site=attic"]',
    ),
]
Texts = Annotated[tuple[str, ...], msgspec.Meta(max_length=64, description="a list of texts")]
Addresses = Annotated[
    tuple[str, ...],
    msgspec.Meta(
        max_length=limits.ADDRESSES_MAX,
        description='a list of addresses that others can dial, such as ["/dns4/me.example.org/tcp/4747"]',
    ),
]
Flag = Annotated[bool, msgspec.Meta(description="true or false")]


class NodeConfig(msgspec.Struct, frozen=True):
    """`name` is shown to people; empty: the tail of the peer id. `labels` are for placement: zone, site, owner."""

    name: Name = ""
    labels: Labels = ()


class MeshConfig(msgspec.Struct, frozen=True):
    """`join` is an invite; it is ignored once this home belongs to a network.

    `interfaces` are names ("eth0") and networks ("10.0.0.0/8") whose addresses others may be told, and on which mDNS speaks;
    none: all but loopback and link-local. `control_advertise` and `data_advertise` are told besides, such as the outside of
    a NAT. `bootstrap` are addresses of members, or dnsaddr names that lead to some. `foreign_listen` lets libp2p peers of
    other kinds in, to identify, ping and echo alone; empty: none, and none is dialled either.
    """

    control_listen: Multiaddr = "/ip4/0.0.0.0/tcp/4747"
    data_listen: Multiaddr = "/ip4/0.0.0.0/tcp/4748"
    foreign_listen: ForeignMultiaddr = ""
    join: Text = ""
    interfaces: Texts = ()
    control_advertise: Addresses = ()
    data_advertise: Addresses = ()
    bootstrap: Texts = ()
    mdns: Flag = True


class HttpConfig(msgspec.Struct, frozen=True):
    """Anything but a loopback host needs an `api_key`."""

    host: Text = "127.0.0.1"
    port: Port = 8747
    api_key: Text = ""


class WorkerConfig(msgspec.Struct, frozen=True):
    """0 leaves it to the node: all cores, what memory is free, no cap on layers. `memory_mb` is of the device that computes, which
    with "auto" is a card where torch finds one. Layers are computed in `tensor_parallel` processes, on the processor if several. Keys and
    values of sessions are kept in `kv`: as the dtype of each model has them, or in 8 bit."""

    threads: Count = 0
    memory_mb: Count = 0
    layers_max: Count = 0
    accept_offers: Flag = True
    prefix_cache: Flag = True
    device: Annotated[Literal["auto", "cpu", "cuda"], msgspec.Meta(description="auto, cpu or cuda")] = "auto"
    tensor_parallel: Ranks = 1
    kv: Annotated[Literal["model", "int8"], msgspec.Meta(description="model or int8")] = "model"


class ModelConfig(msgspec.Struct, frozen=True):
    """How models offered by this node are computed."""

    dtype: Annotated[
        Literal["bf16", "f32", "int8", "int4"], msgspec.Meta(description="bf16, f32, int8 or int4")
    ] = "bf16"
    numerics: Annotated[Literal["exact", "fast"], msgspec.Meta(description="exact or fast")] = "exact"


class LogConfig(msgspec.Struct, frozen=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        msgspec.Meta(description="debug, info, warning or error"),
    ] = "info"


class Config(msgspec.Struct, frozen=True):
    node: NodeConfig = NodeConfig()
    mesh: MeshConfig = MeshConfig()
    http: HttpConfig = HttpConfig()
    worker: WorkerConfig = WorkerConfig()
    model: ModelConfig = ModelConfig()
    log: LogConfig = LogConfig()


_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "node": NodeConfig,
    "mesh": MeshConfig,
    "http": HttpConfig,
    "worker": WorkerConfig,
    "model": ModelConfig,
    "log": LogConfig,
}
_TYPES: Final[dict[str, Any]] = {
    f"{section}.{key}": annotation
    for section, struct in _SECTIONS.items()
    for key, annotation in typing.get_type_hints(struct, include_extras=True).items()
}
_SECRET_KEYS: Final = frozenset({"http.api_key", "mesh.join"})
_NOT_KEYS: Final = frozenset({"WEFT_HOME"})


@dataclass(frozen=True, slots=True)
class _Setting:
    """One value with where it came from. Values of the environment and of flags are text, and may mean a number."""

    key: str
    value: object
    origin: str
    is_text: bool


def load_config(
    text: str | None, path: str, environment: Mapping[str, str], flags: Mapping[str, str | None]
) -> Config:
    """The effective configuration; `flags` are by dotted key, None where not given. Raises `UserError`."""
    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    origins: dict[str, str] = {}
    for setting in (*_of_file(text or "", path), *_of_environment(environment), *_of_flags(flags)):
        section, _, key = setting.key.partition(".")
        values[section][key] = _checked(setting)
        origins[setting.key] = setting.origin
    config = msgspec.convert(values, Config)
    _check_exposure(config.http, origins.get("http.host", "the defaults"))
    _check_each("mesh.control_advertise", config.mesh.control_advertise, parse_address, origins)
    _check_each("mesh.data_advertise", config.mesh.data_advertise, parse_address, origins)
    _check_each("mesh.bootstrap", config.mesh.bootstrap, parse_entry, origins)
    return config


def _check_each(
    key: str, texts: tuple[str, ...], parse: Callable[[str], object], origins: Mapping[str, str]
) -> None:
    for text in texts:
        try:
            parse(text)
        except Malformed as error:
            raise UserError(f"{key} in {origins[key]}: {error}. Change it and start again.") from error


def _of_file(text: str, path: str) -> Iterator[_Setting]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}. Mend it and start again.") from error
    for section, table in document.items():
        if section not in _SECTIONS:
            raise UserError(f"unknown section [{section}] in {path}{_nearest(section, _SECTIONS)}")
        if not isinstance(table, dict):
            raise UserError(f"{section} in {path} is a value, but expected is a section [{section}].")
        for key, value in table.items():
            dotted = f"{section}.{key}"
            if dotted not in _TYPES:
                raise UserError(f"unknown key {dotted} in {path}{_nearest(dotted, _TYPES)}")
            yield _Setting(dotted, value, path, is_text=False)


def _of_environment(environment: Mapping[str, str]) -> Iterator[_Setting]:
    variables = {f"WEFT_{key.replace('.', '_').upper()}": key for key in _TYPES}
    sections = tuple(f"WEFT_{section.upper()}_" for section in _SECTIONS)
    for variable, value in environment.items():
        if not variable.startswith("WEFT_") or variable in _NOT_KEYS:
            continue
        if variable in variables:
            yield _Setting(variables[variable], value, f"${variable}", is_text=True)
        elif variable.startswith(sections) or get_close_matches(variable, variables, cutoff=0.85):
            # Others are let be: orchestrators set WEFT_PORT_..., WEFT_SERVICE_... and the like by themselves.
            raise UserError(f"unknown variable {variable}{_nearest(variable, variables)}")


def _of_flags(flags: Mapping[str, str | None]) -> Iterator[_Setting]:
    for key, value in flags.items():
        assert key in _TYPES
        if value is not None:
            yield _Setting(key, value, "the command line", is_text=True)


def _checked(setting: _Setting) -> Any:
    annotation = _TYPES[setting.key]
    value = setting.value
    if setting.is_text and isinstance(value, str) and typing.get_origin(annotation.__origin__) is tuple:
        value = [
            part.strip() for part in value.split(",") if part.strip()
        ]  # a list has commas in an environment
    try:
        return msgspec.convert(value, annotation, strict=not setting.is_text)
    except msgspec.ValidationError as error:
        expected = next(meta.description for meta in annotation.__metadata__)
        found = "a secret" if setting.key in _SECRET_KEYS else f"{setting.value!r:.80}"
        raise UserError(
            f"{setting.key} in {setting.origin} is {found}, but expected is {expected}. Change it and start again."
        ) from error


def _check_exposure(http: HttpConfig, origin: str) -> None:
    if not http.api_key and not is_loopback(http.host):
        raise UserError(
            f"http.host in {origin} is {http.host!r}, which others can reach: set http.api_key, or use 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else f": there are {', '.join(known)}."
