"""``sidecar completion SHELL``: what a shell completes, written for that shell from the commands themselves.

The scripts know which words may follow which command; what only a running sidecar knows, they leave to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sidecar.cli.tree import Argument, Command

_BASH: Final = """\
# Completion of sidecar for bash. In ~/.bashrc:  eval "$(sidecar completion bash)"
_sidecar() {
    local current=${COMP_WORDS[COMP_CWORD]} at=sidecar words='' value='' files='' i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then
            mapfile -t COMPREPLY < <(compgen -c -- "$current")
            return
        fi
        if [[ $value ]]; then
            value=''
            continue
        fi
        case "$at ${COMP_WORDS[i]}" in
            @COMMANDS@) at+=" ${COMP_WORDS[i]}" ;;
            @VALUED@) value=${COMP_WORDS[i]} ;;
        esac
    done
    if [[ $value ]]; then
        case "$at $value" in
@VALUES@
        esac
    else
        case $at in
@WORDS@
        esac
    fi
    mapfile -t COMPREPLY < <(
        compgen -W "$words" -- "$current"
        if [[ $files && $current != -* ]]; then compgen -f -- "$current"; fi
    )
    # Names of files are quoted, and a folder's gets no space after it.
    if [[ $files ]]; then compopt -o filenames 2>/dev/null; fi
}
complete -F _sidecar sidecar
"""

_ZSH: Final = """\
#compdef sidecar
# Completion of sidecar for zsh. In ~/.zshrc, after compinit:  eval "$(sidecar completion zsh)"
_sidecar() {
    local at=sidecar value='' files='' i
    local -a choices
    for ((i = 2; i < CURRENT; i++)); do
        if [[ ${words[i]} == -- ]]; then
            _command_names
            return
        fi
        if [[ -n $value ]]; then
            value=''
            continue
        fi
        case "$at ${words[i]}" in
            @COMMANDS@) at+=" ${words[i]}" ;;
            @VALUED@) value=${words[i]} ;;
        esac
    done
    if [[ -n $value ]]; then
        case "$at $value" in
@VALUES@
        esac
    else
        case $at in
@WORDS@
        esac
    fi
    if (( $#choices )); then _describe sidecar choices; fi
    if [[ -n $files && ${words[CURRENT]} != -* ]]; then _files; fi
}
if [[ ${funcstack[1]} == _sidecar ]]; then _sidecar "$@"; else compdef _sidecar sidecar; fi
"""

_FISH: Final = """\
# Completion of sidecar for fish. In ~/.config/fish/config.fish:  sidecar completion fish | source
function __sidecar_at
    set -l at sidecar
    set -l value
    for word in (commandline -opc)[2..]
        if set -q value[1]
            set -e value[1]
            continue
        end
        switch "$at $word"
            case @COMMANDS@
                set at "$at $word"
            case @VALUED@
                set value $word
        end
    end
    test "$at" = "$argv"
end
complete -c sidecar -f
@LINES@
"""


def bash(root: Command) -> str:
    """Return the script for bash."""
    values = (
        f"            {_pattern(command, option)}) words='{' '.join(option.choices)}' files={_yes(option.is_file)} ;;"
        for command, option in _valued(root)
        if option.choices or option.is_file
    )
    words = (
        f"            '{it.path}') words='{' '.join(word for word, _ in _words(it))}' files={_yes(_wants_file(it))} ;;"
        for it in root.all()
    )
    return _filled(_BASH, root, "|", VALUES="\n".join(values), WORDS="\n".join(words))


def zsh(root: Command) -> str:
    """Return the script for zsh, which shows what each word means."""
    values = (
        f"            {_pattern(command, option)}) choices=({' '.join(option.choices)}) files={_yes(option.is_file)} ;;"
        for command, option in _valued(root)
        if option.choices or option.is_file
    )
    words = (
        f"            '{it.path}') choices=({' '.join(_quoted(_described(*pair)) for pair in _words(it))}) "
        f"files={_yes(_wants_file(it))} ;;"
        for it in root.all()
    )
    return _filled(_ZSH, root, "|", VALUES="\n".join(values), WORDS="\n".join(words))


def fish(root: Command) -> str:
    """Return the script for fish, which shows what each word means."""
    lines: list[str] = []
    for command in root.all():
        here = f"complete -c sidecar -n '__sidecar_at {command.path}'"
        lines += [f"{here} -a {it.name} -d {_quoted_fish(it.help)}" for it in command.commands]
        lines += [f"{here} -a '{' '.join(it.choices)}'" for it in command.places if it.choices]
        if _wants_file(command):
            lines.append(f"{here} -F")
        for option in command.options:
            flags = " ".join(f"-l {it[2:]}" if it.startswith("--") else f"-s {it[1:]}" for it in option.flags)
            value = "" if not option.takes else " -r -F" if option.is_file else " -x"
            value += f" -a '{' '.join(option.choices)}'" if option.choices else ""
            lines.append(f"{here} {flags}{value} -d {_quoted_fish(option.help)}")
    return _filled(_FISH, root, " ", LINES="\n".join(lines))


#: Shell → what writes its script.
SHELLS: Final[Mapping[str, Callable[[Command], str]]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _filled(template: str, root: Command, between: str, **parts: str) -> str:
    commands = [f"'{it.path}'" for it in root.all() if it is not root]
    valued = [pattern for command, option in _valued(root) for pattern in _pattern(command, option).split("|")]
    parts |= {"COMMANDS": between.join(commands), "VALUED": between.join(valued)}
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


def _valued(root: Command) -> list[tuple[Command, Argument]]:
    return [(command, option) for command in root.all() for option in command.options if option.takes]


def _pattern(command: Command, option: Argument) -> str:
    return "|".join(f"'{command.path} {flag}'" for flag in option.flags)


def _words(command: Command) -> list[tuple[str, str]]:
    """What may be the next word, but for files, each with what it means."""
    found = [(it.name, it.help) for it in command.commands]
    found += [(choice, "") for it in command.places for choice in it.choices]
    return found + [(flag, it.help) for it in command.options for flag in it.flags]


def _wants_file(command: Command) -> bool:
    return any(it.is_file for it in command.places)


def _yes(whether: bool) -> str:
    return "yes" if whether else "''"


def _described(word: str, text: str) -> str:
    return word.replace(":", r"\:") + (f":{text}" if text else "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"'\''") + "'"


def _quoted_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", r"\'") + "'"
