"""What ``sidecar spool`` prints. Everything in a message was written by somebody else; none of it may control the
terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.cli.status import columns, printable, size

#: Columns of a list are not cut shorter than that to fit the terminal.
NARROWEST: Final = 10

_DIM, _BOLD, _YELLOW = "2", "1", "33"


def status_lines(name: str, state: Mapping[str, Any], colour: bool) -> list[str]:
    """How a spool is. ``state`` is as the admin API says it, or what the files alone tell."""
    running = "max_bytes" in state
    waiting = f"{_messages(state['messages'])}, {size(state['bytes'])}"
    if running:
        waiting += f" of {size(state['max_bytes'])}"
    rows = [("spool", _painted(printable(name), _BOLD, colour))]
    if running:
        problem = printable(str(state["problem"])) or ("full: it takes no more" if state["full"] else "")
        if not problem and state["messages"] and (state["obstacles"] or state["parked"]):
            problem = "waiting, see below"
        rows.append(("state", _painted(problem, _YELLOW, colour) if problem else "fine"))
    rows.append(("waiting", waiting))
    if running:
        rows += [("", _painted(text, _YELLOW, colour)) for text in _obstacles(state)]
        acks = state["acks"]
        rows += [
            ("so far", f"{state['spooled']} spooled, {state['replayed']} replayed, {state['expired']} expired"),
            ("acks", ", ".join(f"{count} by the {printable(by)}" for by, count in acks.items()) or "none"),
        ]
    if state["corrupt"]:
        rows.append(("corrupt", _painted(f"{_messages(state['corrupt'])} could not be read again", _YELLOW, colour)))
    dead = state["dead_letters"]
    rows.append(("dead", f"{letters(dead['messages'])}, {size(dead['bytes'])}" if dead["messages"] else "none"))
    lines = [f"{label:<10}{text}" for label, text in rows]
    if state["waiting"]:
        table = [["WAITING FOR", "VHOST", ">MESSAGES", ">SIZE"]]
        table += [
            [str(key["lane"]), str(key["vhost"]), str(key["messages"]), size(key["bytes"])] for key in state["waiting"]
        ]
        lines += ["", *_table(table, colour)]
        if state["keys"] > len(state["waiting"]):
            lines.append(f"and {state['keys'] - len(state['waiting'])} more")
    if dead["reasons"]:
        table = [["DIED OF", ">MESSAGES"], *([str(reason), str(n)] for reason, n in dead["reasons"].items())]
        lines += ["", *_table(table, colour)]
    return lines


def _obstacles(state: Mapping[str, Any]) -> list[str]:
    """What the messages wait for, if it is not just their turn."""
    found = []
    for obstacle in state["obstacles"]:
        user = f"user {obstacle['user']}, " if obstacle["user"] else ""
        found.append(printable(f"for a connection ({user}vhost {obstacle['vhost']}): {obstacle['problem']}"))
    if state["parked"]:
        found.append(f"{_messages(state['parked'])} until the user they are from has logged in")
    return found


def list_lines(letters: Sequence[Mapping[str, Any]], width: int, colour: bool) -> list[str]:
    """A line for each; with a ``width``, cut so that they fit it."""
    vhosts = any(letter["vhost"] != "/" for letter in letters if letter["readable"])
    texts = any(letter.get("text") for letter in letters)
    rows = [
        [">ID", ">AGE", "REASON", ">CODE", ">TRIES", "VHOST", "EXCHANGE", "ROUTING KEY", ">SIZE", "FROM", "BROKER SAID"]
    ]
    for letter in letters:
        known = letter["readable"]
        rows.append(
            [
                str(letter["id"]),
                age(letter["age"]),
                str(letter["reason"]),
                str(letter["code"] or "-"),
                str(letter["attempts"]) if known else "-",
                str(letter["vhost"]),
                exchange(letter["exchange"]) if known else "(not readable)",
                str(letter["routing_key"]),
                size(letter["bytes"]),
                str(letter["origin"]) or "-",
                str(letter.get("text", "")) or "-",
            ]
        )
    for row in rows:
        if not texts:
            del row[10]
        if not vhosts:
            del row[5]
    return _table(_fitted(rows, width) if width else rows, colour)


def letter_lines(letter: Mapping[str, Any], colour: bool) -> list[str]:
    """All of one."""
    code = f" ({letter['code']})" if letter["code"] else ""
    rows = [
        ("id", _painted(str(letter["id"]), _BOLD, colour)),
        ("died", f"{letter['died']}, {age(letter['age'])} ago"),
        ("reason", _painted(printable(str(letter["reason"])) + code, _YELLOW, colour)),
    ]
    rows += [("broker", printable(str(letter["text"])))] if letter.get("text") else []
    if letter["readable"]:
        rows += [
            ("published", f"{letter['published']}, from {printable(str(letter['origin'])) or 'somebody'}"),
            ("vhost", printable(str(letter["vhost"]))),
            ("exchange", printable(exchange(letter["exchange"]))),
            ("key", printable(str(letter["routing_key"]))),
            ("tries", str(letter["attempts"])),
        ]
        rows += [
            (label, printable(str(letter[key])))
            for label, key in (
                ("priority", "priority"),
                ("user-id", "user"),
                ("expires", "expires"),
                ("trace", "trace"),
            )
            if letter[key]
        ]
        rows += [("mandatory", "yes")] if letter["mandatory"] else []
    lines = [f"{label:<12}{text}".rstrip() for label, text in rows]
    for title in ("properties", "headers"):
        found = letter[title]
        if found:
            longest = max(len(printable(name)) for name in found)
            lines += ["", _painted(title.upper(), _DIM, colour)]
            lines += [f"  {printable(name):<{longest}}  {_value(value)}" for name, value in found.items()]
    return [*lines, "", *_body_lines(letter["body"], letter["readable"], colour)]


def _body_lines(body: Mapping[str, Any], readable: bool, colour: bool) -> list[str]:
    content, text = str(body["content"]), body["encoding"] == "text"
    title = "BODY" if readable else "WHAT IS LEFT OF IT"
    about = f"{size(body['size'])}" + ("" if text else ", base64") + (", only the beginning" if body["cut"] else "")
    lines = [_painted(f"{title} ({about})", _DIM, colour)]
    if text:
        parts = content.replace("\r\n", "\n").split("\n")
        return lines + ["\t".join(printable(part) for part in line.split("\t")) for line in parts if body["size"]]
    return lines + [printable(content[at : at + 76]) for at in range(0, len(content), 76)]


def _value(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def age(seconds: float) -> str:
    """A time span, in the unit that people would say it in."""
    for unit, length, until in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172800)):
        if seconds < until:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def footer(shown: int, total: int, following: int | None, some: bool) -> str:
    """What stands below a list: how many there are, and how to get at the next. ``some``: not all were asked for."""
    if not shown:
        return f"none of {letters(total)}" if some and total else "no dead letters"
    if following is None:
        return f"{shown} of {letters(total)}" if shown < total else letters(total)
    return f"{shown} of {letters(total)}; for the next: --after {following}"


def _fitted(rows: list[list[str]], width: int) -> list[list[str]]:
    """Cut the widest columns until lines fit."""
    widths = [max(len(row[i].removeprefix(">")) for row in rows) for i in range(len(rows[0]))]
    most = list(widths)
    while sum(most) + 2 * (len(most) - 1) > width:
        widest = most.index(max(most))
        if most[widest] <= NARROWEST:
            break
        most[widest] -= 1
    return [rows[0]] + [
        [cell if len(cell) <= limit else cell[: limit - 1] + "…" for cell, limit in zip(row, most, strict=True)]
        for row in rows[1:]
    ]


def _table(rows: list[list[str]], colour: bool) -> list[str]:
    head, *lines = columns(rows, False)
    return [_painted(head, _DIM, colour), *lines]


def _painted(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour else text


def exchange(name: object) -> str:
    return str(name) or "(default)"


def letters(count: int) -> str:
    return f"{count} dead letter" + ("" if count == 1 else "s")


def _messages(count: int) -> str:
    return f"{count} message" + ("" if count == 1 else "s")
