"""Nova's virtual environment in this checkout: .venvs/nova, made once and stamped."""

import pathlib
import shutil
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HOME = _ROOT / ".venvs" / "nova"
_REQUIREMENTS = pathlib.Path(__file__).resolve().parent / "nova-requirements.txt"


def python() -> pathlib.Path:
    """Return the interpreter."""
    return tool("python")


def tool(name: str) -> pathlib.Path:
    """Return a console script of the environment."""
    return _HOME / "bin" / name


def state() -> pathlib.Path:
    """Return the directory for what is made once for each version of the environment."""
    return _HOME / "contract"


def missing() -> str | None:
    """Make the environment if need be; return why that is not possible, or None."""
    try:
        prepare()
    except subprocess.CalledProcessError as error:
        return f"Nova cannot be installed into .venvs/nova: {error}"
    return None


def prepare() -> None:
    """Make the environment unless its stamp says that it is up to date.

    Raises CalledProcessError when pip cannot install what nova-requirements.txt names.
    """
    if _stamp().exists() and _stamp().read_text() == _wanted():
        return
    shutil.rmtree(_HOME, ignore_errors=True)
    print(f"Installing Nova into {_HOME.relative_to(_ROOT)} (about a minute)",
          file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(_HOME)], check=True)
    subprocess.run([str(python()), "-m", "pip", "install", "--quiet",
                    "--requirement", str(_REQUIREMENTS)], check=True)
    state().mkdir()
    _stamp().write_text(_wanted())


def _stamp() -> pathlib.Path:
    return state() / "stamp"


def _wanted() -> str:
    return f"{sys.version_info[:2]}\n{_REQUIREMENTS.read_text()}"


if __name__ == "__main__":
    prepare()
