"""What is kept of a benchmark run: ratios and the kind of machine, not whose machine or every single time."""


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine_info"] = {
        key: output_json["machine_info"][key] for key in ("machine", "python_version", "system")
    }
    output_json.pop("commit_info", None)
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"] = {key: benchmark["stats"][key] for key in ("median", "iqr", "rounds")}
