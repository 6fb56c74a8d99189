"""Backends that start a job on hosts which no scheduler hands out, and what the name of a host may look like.

No text of these classes is ever part of a shell command: names have patterns, files go into argv as they are.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from megabatch.configs.base import Choice, EnvironmentName, NonNegativeInt, PositiveInt

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _no_control(text: str) -> str:
    if _CONTROL.search(text) or text.startswith("-"):
        raise ValueError("has a control character, or begins with a dash. Write another one")
    return text


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,252}$")]
UserName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]{0,31}$")]
PathText = Annotated[str, Field(min_length=1), AfterValidator(_no_control)]
AbsolutePath = Annotated[PathText, Field(pattern=r"^/")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?$")]
ImageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@\-]{0,500}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Ssh(Choice):
    """Ranks on several hosts, started over OpenSSH from this machine, watched until all have ended (docs/hosts.md).

    `hosts`, or a `hostfile` as DeepSpeed and MPI have it, name as many hosts as there are `nodes`. The ranks meet at
    `port` of the first one, at `address` where its name is not what the other hosts know it by. `python` is the
    interpreter on the hosts, by default the path of the one here. `pass_environment` names variables of this shell that
    the ranks get too: keys and tokens, which are not written down anywhere.

    The last `spares` of the hosts only step in for others that are bad or gone. After a failure all ranks are started
    anew from the newest checkpoint, unless `max_restarts` failures in a row came without a new checkpoint between them:
    on as many good hosts as there are `nodes`, or on fewer, but `min_nodes` at least. If there are not enough, they are
    looked at again for `wait_seconds`. Ranks that are cut off from this machine have `grace_seconds` for a checkpoint.
    """

    name: Literal["ssh"] = "ssh"
    hosts: tuple[HostName, ...] = ()
    hostfile: PathText | None = None
    address: HostName | None = None
    port: Port = 29500
    user: UserName | None = None
    ssh_port: Port | None = None
    identity_file: PathText | None = None
    config_file: PathText | None = None
    program: PathText = "ssh"
    python: PathText | None = None
    pass_environment: tuple[EnvironmentName, ...] = ()
    connect_seconds: PositiveInt = 10
    spares: NonNegativeInt = 0
    min_nodes: PositiveInt | None = None
    max_restarts: NonNegativeInt = 0
    wait_seconds: NonNegativeInt = 600
    grace_seconds: PositiveInt = 120

    @model_validator(mode="after")
    def _one_list(self) -> Ssh:
        if self.hostfile is None and not self.hosts:
            raise ValueError("no host is named. Write hosts: [node1, node2], or hostfile: FILE")
        if self.hostfile is not None and self.hosts:
            raise ValueError("hosts and hostfile are both there. Keep one")
        twice = sorted({host for host in self.hosts if self.hosts.count(host) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: there twice. Write each host once; processes_per_node says how many")
        return self

    def unlike_nodes(self, hosts: int, nodes: int) -> str | None:
        """Return what is wrong with a number of hosts, if it is not that of the nodes and the spares."""
        if hosts == nodes + self.spares:
            return None
        and_spares = f" and spares={self.spares}" if self.spares else ""
        remedy = f"Write nodes: {hosts - self.spares}" if hosts > self.spares else f"Write spares: {max(hosts - 1, 0)}"
        return f"{hosts} hosts, but nodes={nodes}{and_spares}. {remedy}"


class AccelerateLaunch(Choice):
    """`accelerate launch`, with a config file that is written into the run folder; run here and watched.

    With several `nodes` it prints the command for each of them; they meet at `address`, one of the first node.
    """

    name: Literal["accelerate"] = "accelerate"
    address: HostName | None = None
    port: Port = 29500


class DeepSpeedLaunch(Choice):
    """The `deepspeed` command, with a hostfile that is written into the run folder; run here and watched.

    With several `nodes` it prints the command for each of them (`--no_ssh`); they meet at `address`, one of the first.
    """

    name: Literal["deepspeed"] = "deepspeed"
    address: HostName | None = None
    port: Port = 29500


class Kubernetes(Choice):
    """A JobSet, one pod for each of the `nodes`, handed to kubectl (docs/hosts.md).

    The pods run `python` of the `image`. They share the volume of `claim` with this machine: here and there it is
    `mount`, and run folder, data and working folder are below it. `secret` names the Kubernetes Secret whose keys the
    ranks get as variables. A preempted pod has `grace_seconds` for a checkpoint; then all pods start anew, which does
    not count toward `max_restarts`.
    """

    name: Literal["kubernetes"] = "kubernetes"
    image: ImageName
    claim: KubernetesName
    mount: AbsolutePath
    namespace: KubernetesName | None = None
    secret: KubernetesName | None = None
    python: PathText = "python"
    port: Port = 29500
    max_restarts: NonNegativeInt = 3
    grace_seconds: PositiveInt = 120
    cpus: PositiveInt | None = None
    memory_gigabytes: PositiveInt | None = None
