"""A process that forks: each child does one job and is killed after so many seconds, or is left to its end. Forking saves the seconds that
imports take, so that a random moment lies within the work. Run as a program; requests come in as lines of JSON, answers go out so."""
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path


def child(job, limit_bytes, log):
    "Does the job in a child of its own group; never returns."
    code = 1
    try:
        os.setsid()
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        if limit_bytes is not None:  # no file may grow beyond this: what a full disk looks like to a program
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
        job()
        code = 0
    except BaseException:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # the log is not on that disk
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve():
    "Compiles the program in argv[1], which defines `job(**arguments)`, and answers requests until stdin closes."
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    space = {"__name__": "jobs"}
    exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"), space)
    out.write('"ready"\n')
    for line in sys.stdin:
        asked = json.loads(line)
        with Path(asked["log"]).open("w+b") as log:
            pid = os.fork()
            if not pid:
                child(lambda asked=asked: space["job"](**asked["arguments"]), asked["limit_bytes"], log)
            begin, seconds = time.monotonic(), asked["seconds"]
            done = 0
            while not done and (seconds is None or time.monotonic() - begin < seconds):
                done, status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.002)
            if not done:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
        out.write(json.dumps({"killed": not done, "code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begin}) + "\n")


class Jobs:
    "The test's side: `run` does a job, or kills it half-way."

    def __init__(self, folder, program):
        self.log, script = Path(folder) / "job.log", Path(folder) / "jobs.py"
        script.write_text(program)
        paths = os.pathsep.join([str(Path(__file__).resolve().parent.parent), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.errors = (Path(folder) / "server.log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment, text=True
        )
        assert self.process.stdout.readline() == '"ready"\n', Path(self.errors.name).read_text()

    def run(self, seconds=None, limit_bytes=None, **arguments):
        "What became of it: killed (by us), code and seconds; what it printed is in `said()`."
        request = {"arguments": arguments, "seconds": seconds, "limit_bytes": limit_bytes, "log": str(self.log)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def said(self):
        return self.log.read_text(errors="replace")

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.errors.close()


if __name__ == "__main__":
    serve()
