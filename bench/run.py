#!/usr/bin/python3
"""Runs the benchmarks as pairs, a limit and lockstep, and reports their ratios.

usage: run.py BIN-DIR [--quick] [--filter REGEX] [--rounds N] [--list] [--out DIR]

A benchmark is named <what>/<variant>/limit or .../lockstep (beside a peer: .../peer). Each measurement is a process of
its own; the two sides of a pair run one after the other, in turned order from round to round, and every pair has its
turn in every round: what slows the machine down for a while hits both sides, and no pair alone. The ratio is the
limit's time divided by lockstep's for the same work, so 1 is the limit itself and more is better; the table shows the
median over the rounds, and the least and the greatest.

Writes report.json, ratios.png and ratios.svg (with matplotlib) to BIN-DIR/../bench-report. Exits 1 when something could
not run, never because of a ratio. docs/benchmarks.md says what each limit is.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys

# The first pattern that matches a pair's name gives its goal: the least ratio. Pairs without a goal are for the record.
GOALS = [
    (r"append/\w+/new", 0.88),
    (r"append/\w+/recycled", 1.10),
    (r"durable/\d+/inline", 0.95),
    (r"durable/\d+/offloaded", 0.85),
    (r"frame/echo/.*", 1 / 1.10),
    (r"frame/pipelined/.*", 0.95),
    (r"ship/memory/(1KiB|16KiB)", 1.10),
    (r"ship/sealed/(1KiB|16KiB)", 0.95),
    (r"ship/follower_log/(1KiB|16KiB)", 0.90),
    (r"ship/raft_member/(1KiB|16KiB)", 0.80),
    (r"recovery/(scan|verify)/(1KiB|16KiB)", 0.70),
    (r"raft/nuraft_rate/64", 8),
    (r"raft/nuraft_latency/1", 1 / 0.70),
    (r"raft/sync/(64|1024)", 0.60),
    (r"peers/leveldb/100B", 8),
    (r"peers/rocksdb_sync/64", 7),
    (r"peers/rocksdb_sync/512", 25),
]
PROGRAMS = ["lockstep_bench", "lockstep_bench_peers"]
SIDES = ("limit", "peer", "lockstep")
# Both sides of a Raft pair come of one run of lockstep_bench_raft: its arguments, what lockstep is beside, and how the
# rates follow from the row that it prints. NuRaft's figures are those that it publishes, of another machine.
RAFT = {
    "raft/nuraft_rate/64": (["--clients=64"], "peer", lambda row: (30_400, row["per_second"])),
    "raft/nuraft_latency/1": (["--clients=1"], "peer", lambda row: (1e6 / 268, 1e6 / row["p50_us"])),
    "raft/two_trips/1": (["--clients=1"], "limit", lambda row: (1e6 / row["limit_p50_us"], 1e6 / row["p50_us"])),
    "raft/sync/64": (["--clients=64", "--sync"], "limit", lambda row: (row["limit_per_second"], row["per_second"])),
    "raft/sync/1024": (["--clients=1024", "--sync"], "limit", lambda row: (row["limit_per_second"], row["per_second"])),
}
DEADLINE_S = 120


class Side:
    """One benchmark in one program."""

    def __init__(self, program, full_name):
        self.program = program
        self.full_name = full_name
        self.error = None

    def measure(self, scratch):
        """Returns (rate, unit): work a second."""
        command = [self.program, "--benchmark_filter=^" + re.escape(self.full_name) + "$", "--benchmark_format=json"]
        environment = dict(os.environ, LOCKSTEP_BENCH_DIR=scratch)
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
            found = json.loads(done.stdout)["benchmarks"][0] if done.returncode == 0 else None
        except subprocess.TimeoutExpired:
            self.error = f"took longer than {DEADLINE_S} s"
            return None
        except (ValueError, KeyError, IndexError) as error:
            self.error = f"its output is not understood: {error!r}"
            return None
        if found is None:
            self.error = f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            return None
        if found.get("error_occurred"):
            self.error = found.get("error_message", "failed")
            return None
        for key, unit in (("items_per_second", "/s"), ("bytes_per_second", "B/s")):
            if found.get(key):
                return found[key], unit
        seconds = found["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[found["time_unit"]]
        return 1 / seconds, "run/s"


class Pair:
    def __init__(self, name):
        self.name = name
        self.sides = {}
        self.rates = {}  # of each side, one a round
        self.unit = ""
        self.goal = next((goal for pattern, goal in GOALS if re.fullmatch(pattern, name)), None)

    @property
    def reference(self):
        return "peer" if "peer" in self.sides else "limit"

    @property
    def complete(self):
        return "lockstep" in self.sides and self.reference in self.sides

    @property
    def error(self):
        return next((f"{name}: {side.error}" for name, side in self.sides.items() if side.error), None)

    def measure(self, scratch, turned):
        got = {}
        order = [self.reference, "lockstep"]
        for side in reversed(order) if turned else order:
            measured = self.sides[side].measure(scratch)
            if measured is None:
                return
            got[side], self.unit = measured
        for side, rate in got.items():
            self.rates.setdefault(side, []).append(rate)

    @property
    def ratios(self):
        return [ours / theirs for ours, theirs in zip(self.rates["lockstep"], self.rates[self.reference])]

    @property
    def met(self):
        return None if self.goal is None else statistics.median(self.ratios) >= self.goal


class RaftPair(Pair):
    complete = True
    error = None

    def __init__(self, name, program):
        super().__init__(name)
        self.unit = "/s"
        self.arguments, self.beside, self.rates_of = RAFT[name]
        self.program = program

    @property
    def reference(self):
        return self.beside

    def measure(self, scratch, turned):
        command = [self.program, "--bytes=256", "--rounds=1", "--output=json", *self.arguments]
        environment = dict(os.environ, LOCKSTEP_BENCH_DIR=scratch)
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
            if done.returncode != 0:
                self.error = f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"
                return
            theirs, ours = self.rates_of(json.loads(done.stdout)["rows"][0])
        except subprocess.TimeoutExpired:
            self.error = f"took longer than {DEADLINE_S} s"
            return
        except (ValueError, KeyError, IndexError) as error:
            self.error = f"its output is not understood: {error!r}"
            return
        self.rates.setdefault(self.beside, []).append(theirs)
        self.rates.setdefault("lockstep", []).append(ours)


def find_pairs(bin_dir, pattern):
    pairs = {}
    problems = []
    for program in (os.path.join(bin_dir, name) for name in PROGRAMS):
        if not os.path.exists(program):
            if not program.endswith("_peers"):
                problems.append(f"{program} is not there: build the preset `release` first")
            continue
        listed = subprocess.run([program, "--benchmark_list_tests"], capture_output=True, text=True)
        if listed.returncode != 0:
            problems.append(f"{program} cannot list its benchmarks: {listed.stderr.strip()[-300:]}")
            continue
        for full_name in listed.stdout.split():
            # Google Benchmark adds how it counts: /iterations:3/manual_time.
            found = re.fullmatch(r"(.+?)/(" + "|".join(SIDES) + r")(/[a-z_]+(:[^/]*)?)*", full_name)
            if not found:
                problems.append(f"{full_name} names no side of a pair")
            elif re.search(pattern, found[1]):
                pair = pairs.setdefault(found[1], Pair(found[1]))
                pair.sides[found[2]] = Side(program, full_name)
    raft = os.path.join(bin_dir, "lockstep_bench_raft")
    for name in (name for name in RAFT if re.search(pattern, name)):
        if os.path.exists(raft):
            pairs[name] = RaftPair(name, raft)
        else:
            problems.append(f"{raft} is not there: build the preset `release` first")
            break
    for pair in [pair for pair in pairs.values() if not pair.complete]:
        problems.append(f"{pair.name} has only the side {', '.join(pair.sides)}")
        del pairs[pair.name]
    return list(pairs.values()), problems


def with_prefix(value, unit):
    if unit == "B/s":
        for factor, prefix in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
            if value >= factor:
                return f"{value / factor:.3g} {prefix}{unit}"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def print_table(pairs):
    rows = [("what", "limit or peer", "lockstep", "ratio", "(min-max)", "goal", "")]
    for pair in pairs:
        if pair.error or not pair.rates:
            rows.append((pair.name, "", "", "", "", "", f"could not run: {pair.error}"))
            continue
        ratios = pair.ratios
        rows.append((
            pair.name,
            with_prefix(statistics.median(pair.rates[pair.reference]), pair.unit),
            with_prefix(statistics.median(pair.rates["lockstep"]), pair.unit),
            number(statistics.median(ratios)),
            f"({number(min(ratios))}-{number(max(ratios))})",
            "" if pair.goal is None else f">= {number(pair.goal)}",
            {None: "", True: "met", False: "NOT MET"}[pair.met],
        ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        left = row[0].ljust(widths[0])
        middle = "  ".join(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:]))
        print(f"{left}  {middle}  {row[-1]}".rstrip())


def machine():
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), model)
    except OSError:
        pass
    return {"processor": model, "processors": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}


def write_json(pairs, problems, path, settings):
    report = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": settings,
        "problems": problems,
        "pairs": [
            {
                "name": pair.name,
                "beside": pair.reference,
                "unit": pair.unit,
                "rates": pair.rates,
                "ratios": pair.ratios if pair.rates else [],
                "ratio": statistics.median(pair.ratios) if pair.rates else None,
                "goal": pair.goal,
                "met": pair.met if pair.rates else None,
                "error": pair.error,
            }
            for pair in pairs
        ],
    }
    with open(path, "w") as to:
        json.dump(report, to, indent=1)


def plot(pairs, out, subtitle):
    try:
        import matplotlib
    except ImportError:
        print("no plot: python3-matplotlib is not installed")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    pairs = [pair for pair in pairs if pair.rates]
    if not pairs:
        return
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.27 * len(pairs)))
    met, missed, plain, goal = "#2a7f62", "#c8452e", "#5b6b7d", "#1b1b1b"
    for row, pair in enumerate(pairs):
        ratios = pair.ratios
        middle = statistics.median(ratios)
        colour = plain if pair.met is None else met if pair.met else missed
        axes.barh(row, middle, color=colour, height=0.62, alpha=0.85, zorder=2)
        axes.plot([min(ratios), max(ratios)], [row, row], color="#1b1b1b", linewidth=1, alpha=0.55, zorder=3)
        if pair.goal is not None:
            axes.plot([pair.goal, pair.goal], [row - 0.42, row + 0.42], color=goal, linewidth=2.4, zorder=4)
        axes.annotate(number(middle), (max(max(ratios), pair.goal or 0), row), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=8)
    axes.axvline(1, color="#888888", linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(range(len(pairs)))
    axes.set_yticklabels([pair.name for pair in pairs], fontsize=8)
    axes.invert_yaxis()
    highest = max(max(max(pair.ratios), pair.goal or 0) for pair in pairs)
    if highest > 4:  # beside peers
        axes.set_xscale("log")
        lowest = min(min(pair.ratios) for pair in pairs)
        axes.set_xlim(min(0.25, lowest * 0.8), highest * 1.6)
        ticks = [tick for tick in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128) if lowest * 0.8 <= tick <= highest * 1.6]
        axes.set_xticks(ticks)
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        axes.set_xlim(0, highest * 1.12)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("times the limit's rate (1 = the limit; medians, thin line: least to greatest)")
    axes.set_title("lockstep against its limits\n" + subtitle, fontsize=10)
    handles = [
        pyplot.Rectangle((0, 0), 1, 1, color=met, label="goal met"),
        pyplot.Rectangle((0, 0), 1, 1, color=missed, label="goal not met"),
        pyplot.Rectangle((0, 0), 1, 1, color=plain, label="for the record"),
        pyplot.Line2D([], [], color=goal, linewidth=2.4, label="goal"),
    ]
    figure.legend(handles=handles, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    for suffix in ("png", "svg"):
        figure.savefig(os.path.join(out, "ratios." + suffix), dpi=130)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bin_dir", help="where lockstep_bench is")
    parser.add_argument("--quick", action="store_true", help="few rounds, under two minutes")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only pairs whose name it matches")
    parser.add_argument("--rounds", type=int, help="how often each pair is measured (9; quick: 3)")
    parser.add_argument("--list", action="store_true", help="print the pairs' names and their goals, and end")
    parser.add_argument("--out", metavar="DIR", help="where the report goes")
    given = parser.parse_args()

    pairs, problems = find_pairs(given.bin_dir, given.filter)
    if given.list:
        for pair in pairs:
            print(pair.name, "" if pair.goal is None else f">= {number(pair.goal)}")
        return 0
    rounds = given.rounds or (3 if given.quick else 9)
    out = given.out or os.path.join(os.path.abspath(given.bin_dir), os.pardir, "bench-report")
    out = os.path.normpath(out)
    scratch = os.path.join(out, "scratch")
    os.makedirs(scratch, exist_ok=True)
    settings = {"rounds": rounds, "filter": given.filter}
    try:
        for turn in range(rounds):
            for at, pair in enumerate(pairs):
                if sys.stderr.isatty():
                    print(f"\r\033[Kround {turn + 1} of {rounds}: {at + 1} of {len(pairs)}, {pair.name}", end="",
                          file=sys.stderr, flush=True)
                if not pair.error:
                    pair.measure(scratch, turned=turn % 2 == 1)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

    print_table(pairs)
    here = machine()
    subtitle = (f"{datetime.date.today()}, {here['processors']} x {here['processor']}, Linux {here['kernel']}, "
                f"{rounds} rounds")
    problems += [f"{pair.name}: {pair.error}" for pair in pairs if pair.error]
    write_json(pairs, problems, os.path.join(out, "report.json"), settings)
    plot(pairs, out, subtitle)
    print(f"\n{subtitle}\nreport: {out}")
    for problem in problems:
        print("run.py: " + problem, file=sys.stderr)
    return 1 if problems or not pairs else 0


if __name__ == "__main__":
    sys.exit(main())
