"""YAML files: what is wrong with one, in a line."""

import yaml


def problem_of_yaml(path: str) -> str | None:
    """Why a file is no config, as one line; None if it is one as far as YAML goes."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the path may be no path at all
            plain = yaml.safe_load(file)
    except UnicodeDecodeError as error:
        return f"{path} is not UTF-8 text ({error.reason}): give a config in YAML"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): give a config in YAML"
    except RecursionError:
        return f"{path} is nested too deeply: give a config in YAML"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        return f"{path}{line}: not YAML ({error.problem or error.context})"
    except yaml.YAMLError as error:
        return f"{path}: not YAML ({str(error).splitlines()[0]})"
    return None if isinstance(plain, dict) else f"{path} holds no keys, but {type(plain).__name__}: give a config"
