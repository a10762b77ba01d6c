"""The oracle itself, against hand-made input and against a loop over records and windows."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("windows", os.path.join(HERE, "windows.py"))
windows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(windows)


def car(t, car_id=1000001, speed=130.0, rpm=1000, gear=4):
    event = {"event_id": "x", "event_time": windows.time_text(t), "car_id": car_id}
    return json.dumps({**event, "speed": speed, "rpm": rpm, "gear": gear})


class Folder(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.write("models.csv", ["model_id,brand,model", "1,Mazda,3"])
        self.write("colors.csv", ["color_id,color_name", "1,Black", "4,White", "7,Silver"])
        self.write("cars.csv", ["car_id,driver_id,model_id,color_id", "1000001,1,1,1", "1000002,2,1,7"])

    def write(self, name, lines):
        with open(os.path.join(self.folder.name, name), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def run_oracle(self, *flags, pipeline="cars"):
        command = [sys.executable, os.path.join(HERE, "windows.py"), os.path.join(self.folder.name, "part-*")]
        command += ["--pipeline", pipeline, "--dims", self.folder.name, *map(str, flags)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        return rows, [json.loads(line) for line in result.stderr.splitlines()]


class Times(unittest.TestCase):
    def test_forms(self):
        for text in ["1970-01-01T00:00:01Z", "1970-01-01t02:00:01.000999999+02:00", "1970-01-01 00:00:01"]:
            self.assertEqual(windows.time_ms(text), 1000)
        self.assertEqual(windows.time_ms("1969-12-31T23:59:59.9Z"), -100)
        for text in ["1970-02-30T00:00:00Z", "1970-01-01", "1970-01-01T24:00:00Z", "", None, 5]:
            with self.assertRaises(windows.Rejected):
                windows.time_ms(text)

    def test_mean_is_exact(self):
        values = [0.1, 1e16, -1e16]
        self.assertEqual(windows.exact_mean(values), windows.exact_mean(values[::-1]))
        self.assertAlmostEqual(windows.exact_mean([75.1, 75.3]), 75.2, delta=1e-12)
        self.assertIsNone(windows.exact_mean([]))


class Cars(Folder):
    def test_boundaries_of_lateness(self):
        # wait 2 s; windows of 10 s. The first record after the high mark 12 s has w = 10 s = e.
        self.write("part-0", [car(9_999), car(12_000), car(9_000)])  # the last is late for [0, 10)
        self.write("part-1", [car(11_999), car(9_000, 1000002)])  # w = 9.999 s: just in time
        rows, ledger = self.run_oracle("--wait-ms", 2000, "--window-ms", 10_000)
        self.assertEqual([(r["num_of_rows"], r["num_of_black"], r["num_of_silver"]) for r in rows], [(2, 1, 1), (2, 2, 0)])
        self.assertEqual(rows[0]["window_start"], "1970-01-01T00:00:00.000Z")
        self.assertEqual([(r["on_time"], r["late"], r["late_windows"]) for r in ledger], [(2, 1, 1), (2, 0, 0)])
        # keep is exclusive: tau = 10 s, so keep 1 ms is enough and 0 is not.
        rows, ledger = self.run_oracle("--wait-ms", 2000, "--window-ms", 10_000, "--keep-ms", 1)
        self.assertEqual(rows[0]["num_of_rows"], 3)
        self.assertEqual([r["late_kept"] for r in ledger], [1, 0])

    def test_rejected_lines_move_nothing_and_filtered_ones_do(self):
        good = json.loads(car(1000))
        bad = ["{", "[]", "5", '{"event_time":"2024-01-01T00:00:00Z"}', json.dumps({**good, "car_id": None})]
        bad += [json.dumps({**good, "rpm": 1.5}), car(10**12).replace("130.0", "NaN"), car(10**12).replace("130.0", "1e999")]
        calm = car(50_000, speed=60.0, gear=2)  # no alert
        self.write("part-0", [*bad, "", car(1000), calm, car(2000)])
        rows, ledger = self.run_oracle("--wait-ms", 0, "--window-ms", 10_000)
        self.assertEqual([r["num_of_rows"] for r in rows], [1])
        expected = {"read": 11, "rejected": 8, "filtered": 1, "on_time": 1, "late": 1}
        self.assertEqual({name: ledger[0][name] for name in expected}, expected)

    def test_alerts(self):
        def counted(*flags, **fields):
            self.write("part-0", [car(0, **{"speed": 60.0, "rpm": 1000, "gear": 2, **fields})])
            return len(self.run_oracle("--wait-ms", 0, "--window-ms", 1000, *flags)[0])

        self.assertEqual(counted(), 0)
        self.assertEqual(counted(speed=120.0, gear=4), 0)
        self.assertEqual(counted(speed=120.01, gear=4), 1)
        self.assertEqual(counted(rpm=6000), 0)
        self.assertEqual(counted(rpm=6001), 1)
        self.assertEqual(counted(speed=75.0, gear=3), 0)  # 2.5 rounds up
        self.assertEqual(counted("--gear-rule", "bands", speed=60.0, gear=3), 0)
        self.assertEqual(counted(speed=None), 0)
        self.assertEqual(counted(speed=None, rpm=None, gear=None), 0)
        self.assertEqual(counted(car_id=5, rpm=7000), 1)
        self.assertEqual(counted("--unmatched", "drop", car_id=5, rpm=7000), 0)

    def test_dimension_as_of_the_event(self):
        rows = ["1000001,1,1,1,", "1000001,1,1,4,1970-01-01T00:00:05Z"]
        self.write("cars.csv", ["car_id,driver_id,model_id,color_id,valid_from", *rows])
        self.write("part-0", [car(4_999), car(5_000), car(4_000)])
        rows, _ = self.run_oracle("--wait-ms", 5000, "--window-ms", 10_000)
        self.assertEqual((rows[0]["num_of_black"], rows[0]["num_of_white"]), (2, 1))

    def test_random_input_against_loops(self):
        for seed in range(4):
            rng = random.Random(seed)
            wait, keep = rng.choice([0, 700]), rng.choice([0, 900])
            size, slide, offset = rng.choice([(1000, 1000, 0), (1500, 400, 130), (300, 1000, 70), (2000, 500, -250)])
            parts = [[rng.randrange(-4000, 4000) + 5 * i for i in range(300)] for _ in range(3)]
            expected, fates = {}, {}
            for part, times in enumerate(parts):
                self.write(f"part-{part}", [car(t) for t in times])
                for i, t in enumerate(times):
                    tau = max([t] + [earlier - wait for earlier in times[:i]])
                    starts = [s for s in range(offset - 30 * slide, 9000, slide) if s <= t < s + size]
                    ends = [s + size for s in starts]
                    fate = (
                        "no_window" if not ends
                        else "on_time" if any(tau < e for e in ends)
                        else "late_kept" if any(tau < e + keep for e in ends)
                        else "late"
                    )  # fmt: skip
                    fates[part, fate] = fates.get((part, fate), 0) + 1
                    for e in ends:
                        if tau < e + keep:
                            expected[e] = expected.get(e, 0) + 1
            flags = ["--wait-ms", wait, "--keep-ms", keep, "--window-ms", size, "--slide-ms", slide]
            rows, ledger = self.run_oracle(*flags, f"--offset-ms={offset}")
            self.assertEqual([(r["window_end"], r["num_of_rows"]) for r in rows],
                             [(windows.time_text(e), n) for e, n in sorted(expected.items())])  # fmt: skip
            for part, row in enumerate(ledger):
                for fate in ["no_window", "on_time", "late_kept", "late"]:
                    self.assertEqual(row[fate], fates.get((part, fate), 0))


class Factory(Folder):
    def event(self, t, device="MTR-00001", temperature=75.0, vibration=0.1, field="ts"):
        return json.dumps(
            {"device_id": device, field: windows.time_text(t), "temperature_c": temperature, "vibration_g": vibration}
        )

    def test_devices(self):
        lines = [
            self.event(0, temperature=75.1),
            self.event(1, temperature=75.3, vibration=0.4, field="event_ts"),
            self.event(2, temperature=None),
            self.event(3, device="MTR-00002", temperature=None, vibration=None),
            self.event(4, temperature=150),
            self.event(5, device=None),
        ]
        self.write("part-0", lines)
        rows, ledger = self.run_oracle("--wait-ms", 0, "--window-ms", 60_000, pipeline="factory")
        self.assertEqual([(r["device_id"], r["n_events"], r["max_vibration_g"]) for r in rows],
                         [("MTR-00001", 3, 0.4), ("MTR-00002", 1, None)])  # fmt: skip
        self.assertAlmostEqual(rows[0]["avg_temperature_c"], 75.2, delta=1e-12)
        self.assertIsNone(rows[1]["avg_temperature_c"])
        self.assertEqual((ledger[0]["filtered"], ledger[0]["rejected"]), (1, 1))

    def test_whether_quarantined_records_move_the_watermark(self):
        self.write("part-0", [self.event(90_000, temperature=200), self.event(0)])
        for choice, windows_seen in [("filtered", 0), ("rejected", 1)]:
            flags = ["--wait-ms", 0, "--window-ms", 60_000, "--out-of-range", choice]
            self.assertEqual(len(self.run_oracle(*flags, pipeline="factory")[0]), windows_seen)


if __name__ == "__main__":
    unittest.main()
