from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.amqp_schema import AMQP
from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.document import parse
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.keys import key_of
from sidecar.config.kinds import BROKEN, Kind, Place, Reading
from sidecar.config.load import load_text
from sidecar.config.policy import Policy, Short
from sidecar.config.schema import CONFIG, json_schema
from sidecar.config.secrets import SecretValue
from sidecar.config.show import effective
from support.configs import FULL, config_of


def sections(kind: Kind) -> Iterator[Section]:
    match kind:
        case Section():
            yield kind
            for key in kind.keys.values():
                yield from sections(key.kind)
        case Policy() | Short():
            yield from sections(kind.section)
        case ListOf():
            yield from sections(kind.item)
        case MapOf():
            yield from sections(kind.value)
        case _:
            pass


#: Those that are not built yet, too.
SECTIONS = [*sections(CONFIG), *sections(AMQP)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.model.__name__)
def test_every_key_is_a_field_of_the_model_and_the_other_way_round(section: Section) -> None:
    fields = {key_of(field.name) for field in dataclasses.fields(section.model) if field.init} - {"name", "policies"}
    assert set(section.keys) - {"name"} - set(section.declared) <= fields
    assert fields - set(section.keys) <= set(section.refused)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.model.__name__)
def test_every_key_says_what_it_is_and_what_is_allowed(section: Section) -> None:
    for name, key in section.keys.items():
        assert key.doc.endswith("."), name
        assert key.kind.allowed, name


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.model.__name__)
def test_every_example_can_be_read(section: Section) -> None:
    for name, key in section.keys.items():
        if key.example is None or isinstance(key.kind, SecretValue):
            continue
        problems: list[Problem] = []
        node = parse(yaml.safe_dump(key.example), problems)
        assert node is not None
        reading = Reading({}, Path(), problems)
        assert key.kind.read(node, Place(name, 1, reading)) is not BROKEN
        assert not problems


def accepts(schema: Any, value: Any) -> bool:
    """Whether a value fits a schema; only the words that :func:`json_schema` uses."""
    if isinstance(schema, bool):
        return schema
    if not all(accepts(option, value) for option in schema.get("allOf", ())):
        return False
    if "not" in schema and accepts(schema["not"], value):
        return False
    if "if" in schema and accepts(schema["if"], value) and not accepts(schema["then"], value):
        return False
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        return False
    if "anyOf" in schema and not any(accepts(option, value) for option in schema["anyOf"]):
        return False
    if "enum" in schema and not any(value == option and type(value) is type(option) for option in schema["enum"]):
        return False
    types: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    wanted = schema.get("type")
    if wanted == "boolean" or (wanted and isinstance(value, bool)):
        return wanted == "boolean" and isinstance(value, bool)
    if wanted and not isinstance(value, types[wanted]):
        return False
    if isinstance(value, dict):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        if any(key not in value for key in schema.get("required", ())) or len(value) > schema.get("maxProperties", 1e9):
            return False
        needs = schema.get("dependentRequired", {})
        if any(key in value and other not in value for key, others in needs.items() for other in others):
            return False
        free = tuple(schema.get("patternProperties", ()))
        return all(
            accepts(properties[key], item) if key in properties else accepts(rest, item)
            for key, item in value.items()
            if not any(re.search(pattern, key) for pattern in free)
        )
    if isinstance(value, list):
        fits = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1e9)
        return fits and all(accepts(schema.get("items", {}), item) for item in value)
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0) and bool(re.search(schema.get("pattern", ""), value))
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def test_it_is_a_schema_of_the_draft() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["service"]
    assert schema["properties"]["service"]["required"] == ["name"]
    assert schema["properties"]["upstreams"]["additionalProperties"]["additionalProperties"] is False
    retry = schema["properties"]["upstreams"]["additionalProperties"]["properties"]["retry"]
    attempts = retry["anyOf"][0]["properties"]["max_attempts"]
    assert attempts["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 20}
    assert attempts["default"] == 3
    assert attempts["description"] == "Most tries, the first included."
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        "service: {name: a, weights: {passing: '${N}'}}",
        "service: {name: a}\ndrain: {timeout: 30}",
        "service: {name: a}\nadmin: {token: {file: /x}}",
        "service: {name: a}\nregistry: consul://c\n"
        "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {publish: [{rate: 0/s}]}}}",
        "service: {name: a}\nregistry: consul://c\nupstreams: {b: {bind: 'c:1', retry: 'off', bulkhead: false}}",
    ],
)
def test_it_accepts_what_is_right(text: str) -> None:
    assert accepts(json_schema(), yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "service: {}",
        "service: {name: a, nam: b}",
        "service: {name: a}\ndrain: {timeout: 1 day}",
        "service: {name: a}\nlog: {level: loud}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', retry: {max_attempts: 0}}}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', retry: true}}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', endpoints: []}}",
        "service: {name: a}\nadmin: {token: {fil: /x}}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {spool: {}}}}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {publish: [{over: drop}]}}}",
        "service: {name: a}\nupstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {credentials: {username: a}}}}",
    ],
)
def test_it_refuses_what_is_wrong(text: str) -> None:
    assert not accepts(json_schema(), yaml.safe_load(text))


HEAD = "service: {name: a, app: 'a:1'}\nregistry: consul://c\n"
#: Right and wrong ways to put keys together; both are what the loader says, too.
TOGETHER = [
    (True, "upstreams: {b: {bind: 'c:1', endpoints: ['d:1']}}"),
    (False, "upstreams: {b: {bind: 'c:1', endpoints: ['d:1'], discover: {}}}"),
    (True, "x-mine: {any: [thing]}"),
    (True, "upstreams: {b: {bind: 'c:1', protocol: tcp, routes: [], queue: off, retry: {max_attempts: 2}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: tcp, routes: [{match: {path: /x}}]}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: tcp, timeout: {request: 1s}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: tcp, retry: {on: [connect]}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: tcp, host: x}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, timeout: {idle: 1s}}}"),
    (False, "upstreams: {b: {bind: 'c:1', amqp: {}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: tcp, amqp: {}}}"),
    (True, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {queues: []}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {queues: [{name: q}]}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {management: 'http://r:15672'}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {spool: {path: /x}}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {dead_letters: {after: 1}}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {publish: [{rate: 1/s, over: spool}]}}}"),
    (False, "upstreams: {b: {bind: 'c:1', protocol: amqp, amqp: {publish: [{burst: 3}]}}}"),
    (True, "inbound: {bind: 'c:1', protocol: tcp, timeout: {idle: 1s}}"),
    (False, "inbound: {bind: 'c:1', protocol: tcp, limits: {body: 1MiB}}"),
    (True, "inbound: {bind: 'c:1', queue: {path: /x, in_order: true, concurrency: 1}}"),
    (False, "inbound: {bind: 'c:1', queue: {path: /x, in_order: true, concurrency: 2}}"),
    (False, "inbound: {bind: 'c:1', queue: {spool: false}}"),
    (True, "admin: {bind: '127.0.0.1:1'}"),
    (True, "admin: {bind: 'localhost:1'}"),
    (True, "admin: {bind: '[::1]:1'}"),
    (True, "admin: {bind: '0.0.0.0:1', token: abc}"),
    (False, "admin: {bind: '0.0.0.0:1'}"),
    (False, "admin: {bind: '0.0.0.0:1', token: ''}"),
]


@pytest.mark.parametrize(("right", "text"), TOGETHER)
def test_it_knows_what_keys_have_to_do_with_each_other(right: bool, text: str) -> None:
    assert accepts(json_schema(), yaml.safe_load(HEAD + text)) is right
    try:
        load_text(HEAD + text, "sidecar.yaml", {})
    except ConfigError:
        assert not right
    else:
        assert right


@pytest.mark.parametrize(
    ("right", "text"),
    [
        (False, "service: {name: a}\ninbound: {bind: 'c:1'}"),
        (False, "service: {name: a}\nupstreams: {b: {bind: 'c:1'}}"),
        (False, "service: {name: a}\nregistry: none\nupstreams: {b: {bind: 'c:1', discover: {}}}"),
        (True, "service: {name: a}\nregistry: '${R}'\nupstreams: {b: {bind: 'c:1', protocol: '${P}', amqp: {}}}"),
        (False, "service: {name: a, app: 'a:1', check: {http: /x, tcp: true}}"),
        (False, "service: {name: a, app: 'a:1', check: {host: x}}"),
        (True, "service: {name: a, app: 'a:1', check: {host: x, http: /x}}\nadmin: {bind: '${B}'}"),
    ],
)
def test_it_knows_the_rest_of_the_file(right: bool, text: str) -> None:
    assert accepts(json_schema(), yaml.safe_load(text)) is right


def test_it_accepts_what_is_shown() -> None:
    amqp = "{publish: [{exchange: a}], queues: [{name: q}], credentials: {username: a, password: b}}"
    broker = f"  rabbitmq: {{bind: 127.0.0.1:5672, protocol: amqp, amqp: {amqp}}}\n"
    config = config_of(FULL + broker + "consul: {token: x}")
    assert accepts(json_schema(), effective(config))
