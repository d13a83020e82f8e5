"""JupyterLab on the chapters, for whoever called: never as root when somebody else called sudo.

Only the lab itself is privileged. What a notebook or a terminal needs of it is a kubeconfig, and that is handed on
through the environment.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from egresslab.lab import locations
from egresslab.lab.progress import state_directory

FIRST = "00-start-here.ipynb"
LAB_VARIABLE = "EGRESSLAB_LAB"
TERMINAL = """\
# What a terminal of the workshop needs, on top of your own settings.
[ -r ~/.bashrc ] && . ~/.bashrc
export PATH="{path}:$PATH" KUBECONFIG="{kubeconfig}" {variable}="{lab}"
[ -r /usr/share/bash-completion/bash_completion ] && . /usr/share/bash-completion/bash_completion
. <(kubectl completion bash)
alias k=kubectl
complete -o default -F __start_kubectl k
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command and the environment to run it in."""

    command: Sequence[str]
    environment: Mapping[str, str]


def drop_privileges() -> None:
    """Become the user behind sudo, for good; nothing happens to whoever is not root, or is root in their own right.

    To be called when the process has a single thread, before anything is opened.
    """
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not caller.isdigit() or caller == "0":
        return
    user = pwd.getpwuid(int(caller))
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    for name in [name for name in os.environ if name.startswith(("SUDO_", "XDG_"))]:
        del os.environ[name]


def chapters_directory() -> Path:
    """Where the caller may write into the chapters: in a checkout of theirs, else in a copy in their home."""
    home = locations.home()
    if os.access(home, os.W_OK):
        return home
    copy = Path.home() / "egresslab-labs"
    shutil.copytree(home, copy, dirs_exist_ok=True, ignore=lambda _, names: [n for n in names if (copy / n).is_file()])
    return copy


def launch(
    lab: str, kubeconfig: Path, directory: Path, *, port: int, browser: bool, options: Sequence[str] = ()
) -> Launch:
    """JupyterLab in a directory of chapters, opening on the first, with terminals that know the lab."""
    programs = Path(sys.executable).parent
    settings = state_directory() / "terminal.bashrc"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(TERMINAL.format(path=programs, kubeconfig=kubeconfig, variable=LAB_VARIABLE, lab=lab))
    command = [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={directory}",
        f"--ServerApp.port={port}",
        f"--ServerApp.terminado_settings={{'shell_command': ['bash', '--rcfile', '{settings}', '-i']}}",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        *(() if browser else ("--no-browser",)),
        *(("--allow-root",) if os.geteuid() == 0 else ()),
        *options,
    ]
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "KUBECONFIG": str(kubeconfig),
        LAB_VARIABLE: lab,
    }
    return Launch(command, environment)
