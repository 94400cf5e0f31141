"""Parse a command line; what is wrong with it becomes one line that names the key, its value and what is allowed.

jsonargparse tells an error as a path through its own types, one line for each level and each type that it tried. The
key and the reason are in it, on the way to the first type that was tried last.
"""

import inspect
import re
import sys
from collections.abc import Iterable
from importlib import import_module

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from omegaconf.errors import OmegaConfBaseException

import dbl
from dbl.commands.spelling import with_underscores
from dbl.utils.errors import UserError, suggestion
from dbl.utils.yaml_files import problem_of_yaml

# Config key whose value is a class -> module and name of its base class, which is imported when it is needed.
_BASES = {
    "contract.network": ("dbl.networks", "Architecture"),
    "contract.target": ("dbl.denoising.targets", "Target"),
    "contract.noise": ("dbl.diffusion.noise", "NoiseDistribution"),
    "data": ("dbl.data", "ResumableDataModule"),
    "data.init_args.tokenizer": ("dbl.data.text.tokenizer", "Tokenizer"),
    "data.init_args.augmentations": ("dbl.data.images.augment", "Augmentation"),
}
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a group of keys",
    "NoneType": "null",
}
_PLACE = re.compile(r"Parser key \"(?P<key>[^\"]+)\"|(?P<type>Problem with given class_path|Type collections.abc.Call)")
_VALUE = re.compile(r"(?:Got|Given) value: (?P<value>.*?)(?:\. Got value: .*)?$", re.MULTILINE)
_EXPECTED = re.compile(r"Expected a <class '(?P<name>\w+)'>|Expected a typing.Literal\[(?P<choices>[^\]]*)\]")
_CLASS = re.compile(
    r"given class_path '(?P<given>[^']*)'|Import path (?P<path>\S+) does not|"
    r"(?:import path string: |Unexpected import path format: |Expected a path but )(?P<text>\S*)"
)


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse a command line. Raises UserError if something in it is wrong; one line says what.

    Args:
        parser: parser that raises its errors (`exit_on_error=False`).
        arguments: command line, without the name of the command.
    """
    arguments = with_underscores(arguments)
    try:
        return parser.parse_args(arguments)
    # Besides its own error, the parser lets through what reading a file and its references raises.
    except (ArgumentError, ValueError, OverflowError, RecursionError, OmegaConfBaseException) as error:
        if "arguments are required: data" in str(error) and not files_of(arguments):
            raise UserError("give --config FILE, such as --config configs/digits_dit.yaml") from None
        in_file = next(filter(None, map(problem_of_yaml, files_of(arguments))), None)
        raise UserError(in_file or explain(str(error), parser)) from None


def explain(message: str, parser: ArgumentParser) -> str:
    """The message of an error of a parser as one line.

    Args:
        message: text of the `ArgumentError`.
        parser: parser that raised it, whose options are suggested for unknown ones.
    """
    unknown = re.search(r"unrecognized arguments: (\S+)|does not accept option '(\S+)'", message)
    if unknown:
        return _unknown_option(message, unknown[1], unknown[2], parser)
    if "Parser key" not in message:
        return message.replace("the following arguments are required:", "required but not given:")
    key = _key(message)
    text = re.search(r"Unable to load config '(.*)'", message)
    if text and message.count("Parser key") == 2:
        return f"{key} ({text[1][:40]}) must be a group of keys, or a file that holds them"
    option = re.search(r"Option '(\S+)' is not accepted", message)
    if option:
        return f"{key}: there is no {option[1]!r}{suggestion(option[1], _arguments_of(message))}"
    missing = re.search(r"the following arguments are required: (.*)", message)
    if missing:
        return f"{key}.init_args: required but not given: {missing[1]}"
    found = _VALUE.search(message)
    value = found["value"][:40] if found else ""
    expected = _expected(message[: found.end()] if found else message)
    if expected:
        return f"{key} ({value}) must be {expected}"
    return _wrong_class(key, message, value) or f"{key}: {message.partition(':')[2]}"


def _unknown_option(message: str, option: str | None, name: str | None, parser: ArgumentParser) -> str:
    if option is None:
        group = re.search(r"Group '(\S+)' does not", message)
        option = f"{group[1]}.{name}" if group else str(name)
    elif not option.startswith("-"):
        return f"{option} is not an option: options begin with --"
    known = [text for action in parser._actions for text in (*action.option_strings, action.dest)]
    return f"{option} is not known{suggestion(option.partition('=')[0], known)}"


def _key(message: str) -> str:
    """The dotted key on the way to the first type that was tried."""
    key, nested = "", False
    end = _VALUE.search(message)
    for place in _PLACE.finditer(message, 0, end.start() if end else len(message)):
        if place["type"]:
            # The recipe is one class, so that a config gives its arguments alone.
            nested = "class_path 'dbl.TrainingConfig'" not in message[place.start() : place.end() + 30]
        elif not key or place["key"] == key or place["key"].startswith(f"{key}."):
            key = place["key"]
        else:
            key, nested = f"{key}{'.init_args' if nested else ''}.{place['key']}", False
    return key


def _arguments_of(message: str) -> list[str]:
    """Names of the arguments of the class that was given last; nothing if it was not imported."""
    path = (re.findall(r"class_path[= ]'([\w.]+)'", message) or [""])[-1]
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    return list(ArgumentParser().add_class_arguments(cls, fail_untyped=False)) if cls else []


def _expected(message: str) -> str:
    """What the types that were tried would accept; empty if one of them is a class, or there is none."""
    words: list[str] = []
    for match in _EXPECTED.finditer(message):
        if match["choices"]:
            words += [choice.strip(" '\"") for choice in match["choices"].split(",")]
        else:
            words.append(_TYPES.get(match["name"], match["name"]))
    words = list(dict.fromkeys(words))
    return "" if words in ([], ["null"]) else _either(words)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _wrong_class(key: str, message: str, value: str) -> str | None:
    within = message[message.rindex("Parser key") :]  # without the classes around it
    given = [next(filter(None, match.groups()), "") for match in _CLASS.finditer(within)]
    if "Not a valid subclass" not in message and not given and "iterable" not in message and "hashable" not in message:
        return None
    name = given[-1] if given else value
    if failed := _failed_import(name, within):
        return f"{key}.class_path ({name[:40]}) could not be imported: {failed}"
    if key in _BASES:
        return f"{key}.class_path ({name[:40]}) must be one of {', '.join(_public_classes(*_BASES[key]))}"
    example = ", such as torch.optim.AdamW" if "optimizer" in key else ""
    return f"{key} ({name[:40]}) must be a group of keys, or class_path of a class that can be imported{example}"


def _failed_import(name: str, message: str) -> str | None:
    """Why the import of a class of the user's own failed within its module; None if there is no such class."""
    found = re.search(r"Problem with given class_path '[^']*':\s+(?P<reason>.*(?:No module|cannot import).*)", message)
    absent = re.search(r"No module named '([^']+)'", found["reason"]) if found else None
    if found is None or (absent and name.startswith(f"{absent[1]}.")):
        return None
    return found["reason"]


def files_of(arguments: Iterable[str]) -> list[str]:
    """The files that a command line gives with `--config`."""
    words = list(arguments)
    pairs = zip(words, [*words, ""][1:], strict=True)
    files = [word.partition("=")[2] or following for word, following in pairs if re.match(r"(-c|--config)(=|$)", word)]
    return [file for file in files if file]


def _public_classes(module: str, base_name: str) -> list[str]:
    """Names, for a config, of the classes of `dbl` that can be used where that base class is expected."""
    base = getattr(import_module(module), base_name)
    classes = ((name, getattr(dbl, name)) for name in dir(dbl))
    return [
        f"dbl.{name}"
        for name, cls in classes
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls) and cls is not base
    ]
