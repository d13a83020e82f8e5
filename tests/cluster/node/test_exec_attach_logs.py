"""kubectl exec, attach and logs against the kubelet's server, through the API server."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from .conftest import KUBECTL, Cluster, pod, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def shell(cluster: Cluster) -> Iterator[str]:
    """A pod to execute commands in."""
    cluster.apply(pod("shell", "sleep", "1000", container={"workingDir": "/tmp"}))
    cluster.ready("shell")
    yield "shell"
    cluster.delete("shell")


class Terminal:
    """kubectl on a terminal of ours."""

    def __init__(self, cluster: Cluster, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        argv = [str(KUBECTL), "--kubeconfig", str(cluster.server.kubeconfig), *arguments]
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.text = ""

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self.master, text.encode())

    def expect(self, wanted: str, deadline_s: float = 15.0) -> None:
        """Wait for a text on the screen."""
        end = time.monotonic() + deadline_s
        while wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{wanted!r} did not appear in {self.text!r}"
            try:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                break
        assert wanted in self.text

    def close(self) -> int:
        """Exit code."""
        code = self.process.wait(15)
        os.close(self.master)
        return code


def test_exit_code_and_both_streams(cluster: Cluster, shell: str) -> None:
    """A command's streams arrive apart, and kubectl ends with its exit code."""
    done = cluster.kubectl("exec", shell, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.returncode) == ("out\n", 7)
    assert "err\n" in done.stderr and "command terminated with exit code 7" in done.stderr


def test_standard_input_ends(cluster: Cluster, shell: str) -> None:
    """Input of any length passes, and its end is seen by the command (protocol v5)."""
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = cluster.kubectl("exec", "-i", shell, "--", "md5sum", stdin=text)
    local = subprocess.run(["md5sum"], input=text, capture_output=True, text=True, check=True)
    assert done.stdout == local.stdout


def test_same_folder_environment_and_rights_as_the_container(cluster: Cluster, shell: str) -> None:
    """An executed command is not more than its container."""
    lines = cluster.exec(
        shell, "sh", "-c", "pwd; echo $HOSTNAME; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    ).split()
    inside = cluster.exec(shell, "grep", "CapEff", "/proc/2/status").split()
    assert lines == ["/tmp", "shell", *inside, "NoNewPrivs:", "1"] or lines[:2] == ["/tmp", "shell"]
    assert inside[1] in lines


def test_unknown_command_is_an_error(cluster: Cluster, shell: str) -> None:
    """The message names what could not be found."""
    done = cluster.kubectl("exec", shell, "--", "no-such-command", check=False)
    assert done.returncode != 0
    assert '"no-such-command": executable file not found in $PATH' in done.stderr


def test_terminal_with_size_and_job_control(cluster: Cluster, shell: str) -> None:
    """An interactive shell has a terminal of its own container, whose size follows ours."""
    terminal = Terminal(cluster, "exec", "-it", shell, "--", "sh")
    terminal.expect("/tmp #")
    terminal.type("tty; stty size\n")
    terminal.expect("/dev/pts/")
    terminal.type("exit 3\n")
    terminal.expect("exit code 3")
    assert terminal.close() == 3


def test_run_interactively_and_remove(cluster: Cluster) -> None:
    """`kubectl run --rm -it` shows what was written before it could attach, takes input, and ends with the shell."""
    override = '{"spec":{"nodeName":"n1"}}'
    words = ["run", "visit", "--rm", "-it", "--restart=Never", "--image=busybox", "--override-type=strategic"]
    terminal = Terminal(cluster, *words, "--overrides", override, "--", "sh", "-c", "echo greeting; exec sh")
    terminal.expect("greeting")
    terminal.type("echo answer-$((40+2))\n")
    terminal.expect("answer-42")
    terminal.type("exit\n")
    terminal.expect('pod "visit" deleted')
    terminal.close()
    assert cluster.pods("/" + "visit") is None


def test_the_first_to_attach_misses_nothing(cluster: Cluster) -> None:
    """What an interactive container said before anybody was there is shown to the first, not to the second."""
    container = {"stdin": True, "tty": True}
    cluster.apply(pod("early", "sh", "-c", "echo greeting; exec sh", container=container))
    until(lambda: "greeting" in cluster.kubectl("logs", "early", check=False).stdout, "it has spoken")
    first = Terminal(cluster, "attach", "-it", "early")
    first.expect("greeting")
    second = Terminal(cluster, "attach", "-it", "early")
    second.type("echo to-$((40+2))\n")
    second.expect("to-42")
    first.expect("to-42")
    assert "greeting" not in second.text
    second.type("exit\n")
    for terminal in (first, second):
        terminal.close()
    cluster.delete("early")


def test_piped_input_to_a_run(cluster: Cluster) -> None:
    """`kubectl run -i` without a terminal: the pipe's end reaches the program."""
    override = '{"spec":{"nodeName":"n1"}}'
    words = ["run", "piped", "--rm", "-i", "--restart=Never", "--image=busybox", "--overrides", override]
    done = cluster.kubectl(*words, "--", "wc", "-c", stdin="x" * 1000)
    assert "1000" in done.stdout


def test_log_options(cluster: Cluster) -> None:
    """tail, timestamps, limit and since."""
    cluster.apply(pod("talker", "sh", "-c", "for i in 1 2 3; do echo line $i; done; sleep 1.2; echo late; sleep 1000"))
    cluster.ready("talker")
    until(lambda: "late" in cluster.kubectl("logs", "talker").stdout, "the last line")
    assert cluster.kubectl("logs", "talker", "--tail=2").stdout == "line 3\nlate\n"
    assert cluster.kubectl("logs", "talker", "--limit-bytes=4").stdout == "line"
    assert cluster.kubectl("logs", "talker", "--since=1s").stdout in ("late\n", "")
    stamps = [line.split(" ", 1)[0] for line in cluster.kubectl("logs", "talker", "--timestamps").stdout.splitlines()]
    assert stamps == sorted(stamps) and stamps[0][:2] == "20" and stamps[0] < stamps[3]
    cluster.delete("talker")


def test_following_a_log_ends_with_the_container(cluster: Cluster) -> None:
    """`kubectl logs -f` gives every line and returns when there will be no more."""
    script = "for i in 1 2 3 4; do echo line $i; sleep 0.2; done"
    cluster.apply(pod("follow", "sh", "-c", script, restartPolicy="Never"))
    until(lambda: cluster.pod("follow")["status"]["phase"] in ("Running", "Succeeded"), "it runs")
    assert cluster.kubectl("logs", "-f", "follow").stdout == "line 1\nline 2\nline 3\nline 4\n"
    cluster.delete("follow")


def test_log_of_the_run_before(cluster: Cluster) -> None:
    """`kubectl logs --previous` after a restart, and why there is none before."""
    cluster.apply(pod("again", "sh", "-c", 'test -e /share/x && sleep 1000; touch /share/x; echo first; exit 1',
                      container={"volumeMounts": [{"name": "share", "mountPath": "/share"}]},
                      volumes=[{"name": "share", "emptyDir": {}}]))  # fmt: skip
    until(lambda: cluster.container("again")["restartCount"] == 1, "it was restarted")
    assert cluster.kubectl("logs", "again", "--previous").stdout == "first\n"
    cluster.delete("again")
    cluster.apply(pod("once", "sleep", "1000"))
    cluster.ready("once")
    assert "previous terminated container" in cluster.kubectl("logs", "once", "-p", check=False).stderr
    cluster.delete("once")
