"""A Slurm cluster of one node on this machine: munged, slurmctld and slurmd of Debian's packages, on loopback only, in a
folder of its own. Everything is ended when the block ends.

    with Cluster() as cluster:
        cluster.run("sbatch", "--parsable", "job.sh")
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo"]


def missing_programs():
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where the daemons are
    return [name for name in PROGRAMS if shutil.which(name) is None]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __enter__(self):
        # Short, since it holds sockets, and open to all, since munge looks at every folder above its socket.
        self.folder = Path(tempfile.mkdtemp(prefix="qg-slurm-"))
        self.folder.chmod(0o755)
        self.daemons = []
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_):
        self._stop()

    def run(self, *words, check=True):
        environment = dict(os.environ, SLURM_CONF=str(self.folder / "slurm.conf"))
        done = subprocess.run(words, env=environment, text=True, capture_output=True, timeout=60)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def states(self):
        """State of every job that Slurm still knows, by number ("7_1" for a task of an array)."""
        lines = self.run("squeue", "--array", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def logs(self):
        return "".join(f"---- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
                       for path in sorted(self.folder.glob("*.log")))

    def _start(self):
        folder, user, host = self.folder, getpass.getuser(), socket.gethostname().split(".")[0]
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        # --force: as root, which munged does not like to be.
        self._daemon("munged", "--foreground", "--force", "--num-threads=1", f"--key-file={folder}/munge.key",
                     f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                     f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed")
        self._wait(lambda: (folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        self._daemon("slurmd", "-D", "-f", f"{folder}/slurm.conf", "-N", host)
        self._wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False), "slurmctld and slurmd")

    def _daemon(self, *words):
        self.daemons.append(subprocess.Popen(
            words, env=dict(os.environ, SLURM_CONF=str(self.folder / "slurm.conf")), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=open(self.folder / f"{words[0]}.out.log", "w"), stderr=subprocess.STDOUT))

    def _wait(self, ready, what, seconds=60):
        limit = time.monotonic() + seconds
        while not ready():
            ended = [d.args[0] for d in self.daemons if d.poll() is not None]
            if ended or time.monotonic() > limit:
                raise AssertionError(f"{what} did not start ({', '.join(ended)} ended)\n{self.logs()}")
            time.sleep(0.2)

    def _stop(self):
        if self.daemons:
            self.run("scancel", "--quiet", "--state=RUNNING", check=False)
            self.run("scancel", "--quiet", "--state=PENDING", check=False)
            time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
