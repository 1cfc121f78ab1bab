"""Flags made of a dataclass: what a command line gives, typed, and --help in groups with each number's range."""

import argparse
import difflib
import functools
import inspect
import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Literal, NoReturn, get_args, get_origin, get_type_hints

from runtime.messages import fail


def whole(text: str) -> int:
    """An integer, also as 1e6 or 1_000_000."""
    try:
        return int(text)
    except ValueError:
        number = real(text)
        if number != number or abs(number) == float("inf") or number != int(number):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        return int(number)


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def truth(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return words[text.lower()]


def folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("names no folder (an unset variable?): name one under runs/")
    return Path(text)


def chosen(options: tuple[str, ...], text: str) -> str:
    if text not in options:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(options)}")
    return text


def keywords(words: list[str]) -> dict:
    """Keyword arguments from JSON objects and words key=value, whose values are JSON, Python's constants or text."""
    found = {}
    for word in words:
        key, sign, text = word.partition("=")
        is_json = word.lstrip().startswith("{")
        more = value_of(word) if is_json else {key.strip(): value_of(text)} if sign and key.strip() else None
        if not isinstance(more, dict):
            fail(f"--env-kwargs {word}: give key=value, or a JSON object such as '{{\"key\": true}}'")
        found |= more
    return found


def value_of(text: str):
    constants = {"True": True, "False": False, "None": None}
    try:
        return constants[text] if text in constants else json.loads(text)
    except ValueError:
        return text


def through_json(value):
    """A value as config.json keeps it; None where it cannot."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


class Switch(argparse.Action):
    """--name, --no-name, and --name True or False."""

    def __call__(self, parser, namespace, value, option=None):
        setattr(namespace, self.dest, (value is None or value) is not option.startswith("--no-"))


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(re.sub(r"^argument ([^ :]+): ", lambda name: name[1].split("/")[0] + " ", message) + "; see --help")


def dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def one_of(hint):
    """A field's type without None."""
    options = [option for option in get_args(hint) if option is not type(None)]
    return options[0] if options and get_origin(hint) is not Literal else hint


def given(cls: type, argv: list[str]) -> dict:
    """The fields of a dataclass that a command line gives, and their values; "help" among them if asked for. Refused
    where a flag is unknown, or a value not of its field's type."""
    parser = Parser(allow_abbrev=False, add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true")
    types = {int: whole, float: real, str: str, Path: folder}
    for name, hint in get_type_hints(cls).items():
        kind, flag = one_of(hint), dashed(name)
        if kind is bool:
            parser.add_argument(flag, "--no-" + flag[2:], dest=name, action=Switch, nargs="?", type=truth)
        elif kind is dict:
            parser.add_argument(flag, nargs="+", action="extend")
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, type=functools.partial(chosen, get_args(kind)))
        else:
            parser.add_argument(flag, type=types[kind])
    dashes = [re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    values, rest = parser.parse_known_args(dashes)
    if rest:
        near = difflib.get_close_matches(rest[0].split("=")[0], parser._option_string_actions, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        fail(f"{rest[0]} is no flag of this script{meant}, nor the value of one; see --help")
    values = vars(values)
    for name, hint in get_type_hints(cls).items():
        if name in values and one_of(hint) is dict:
            values[name] = keywords(values[name])
        elif values.get(name) == "None" and type(None) in get_args(hint):
            values[name] = None
    return values


def comments(cls: type) -> dict[str, str]:
    """Each field's help: the comment behind it and below, in the dataclass or in one that it extends."""
    texts = {}
    for base in reversed(cls.__mro__[:-1]):
        found = re.findall(r"^    (\w+): .*?  # (.*(?:\n    # .*)*)$", inspect.getsource(base), re.M)
        texts |= {name: text.replace("\n    # ", " ") for name, text in found}
    return texts


def shown(value) -> str:
    """A value as --help shows it: powers of ten as such, on and off."""
    words = {None: "none", True: "on", False: "off"}
    if isinstance(value, bool) or value is None:
        return words[value]
    if isinstance(value, int) and re.fullmatch("10{6,}", str(value)):
        return f"10^{len(str(value)) - 1}"
    return str(value)


def help_text(cls: type, defaults: dict, limits: dict[str, tuple], groups: dict[str, list[str]], about: str) -> str:
    """--help: what a script is about, and the flags group by group, each with its line, range and default."""
    width, texts, hints = min(shutil.get_terminal_size().columns, 120), comments(cls), get_type_hints(cls)
    lines = [*textwrap.wrap(about, width)]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            kind, flag, metavars = one_of(hints[name]), dashed(name), {int: " N", float: " X", Path: " FOLDER"}
            options = "|".join(get_args(kind)) if get_origin(kind) is Literal else ""
            value = f" {options}" if options else " KEY=VALUE .." if kind is dict else metavars.get(kind, " NAME")
            flag += f", --no-{flag[2:]}" if kind is bool else value
            span = f" [{' to '.join(map(shown, limits[name]))}]" if name in limits else ""
            default = f" (default: {shown(defaults[name])})"
            text = textwrap.wrap(texts.get(name, "") + span + default, max(width - 26, 20), break_on_hyphens=False)
            lines += [f"  {flag}".ljust(26) + text.pop(0)] if len(flag) < 23 else [f"  {flag}"]
            lines += [" " * 26 + line for line in text]
    return "\n".join([*lines, "", f"  {'-h, --help':24}show this"])
