"""deploy/, Dockerfile and docs/operations.md, checked against each other and against a running lossd.

Every rule and every dashboard query runs in a real Prometheus that scrapes a real lossd. The names in them are also
taken out by themselves and looked up: an expression over a misspelt metric or label succeeds, and finds nothing.
"""

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import grpc
import pytest
import yaml

from process import wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/lossd.json").read_text())
RULES = [r for g in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for r in g["rules"]]
ALERTS = [r for r in RULES if "alert" in r]
RECORDED = {r["record"] for r in RULES if "record" in r}

# What Grafana puts in place of its variables. A name that is missing here fails test_dashboard_variables.
VARIABLES = {"__rate_interval": "1m", "job": "digits", "instance": ".+"}

# Expressions that a server without a fault of its own answers with nothing.
EMPTY_ON_A_HEALTHY_SERVER = {"instance:lossd_server_fault:ratio_rate5m"}


# ---- PromQL ----------------------------------------------------------------------------------------------------------


def panels():
    return [p for p in DASHBOARD["panels"] if p["type"] != "row"]


def substitute(expr):
    return re.sub(r"\$(\w+)", lambda m: VARIABLES[m[1]], expr)


def dashboard_queries():
    return [(f"{p['title']}/{t['refId']}", substitute(t["expr"])) for p in panels() for t in p["targets"]]


def rule_queries():
    return [(r.get("record") or r["alert"], r["expr"]) for r in RULES]


def names(expr):
    """The metrics of an expression, each with the labels it is selected by, and the labels that it groups by."""
    expr = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    expr = re.sub(r"\[[^\]]*\]", "", expr)
    groupings = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
    grouping_labels = {label for m in groupings.finditer(expr) for label in re.findall(r"\w+", m[1])}
    metrics = {}
    for m in re.finditer(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\s*(\{[^{}]*\}|\()?", groupings.sub("", expr)):
        name, rest = m[1], m[2] or ""
        if rest != "(" and name not in {"and", "or", "unless", "offset", "bool"}:
            metrics.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]", rest))
    return metrics, grouping_labels


def test_names():
    expr = """histogram_quantile(0.99, sum by (le, job) (rate(a_b:c{x="y{z", k=~".+"}[5m])))
              / on (i) group_left () up or 1e3 * time()"""
    assert names(expr) == ({"a_b:c": {"x", "k"}, "up": set()}, {"le", "job", "i"})


# ---- A Prometheus that scrapes lossd ---------------------------------------------------------------------------------


class Prometheus:
    def __init__(self, address):
        self.address = address

    def query(self, expr):
        url = f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expr}: {error.read().decode()}")

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=10):
                return True
        except OSError:
            return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_traffic(lossd):
    """One batch, and one call that is refused, so that every metric has a value."""
    lossd.evaluate_once(job="digits")
    with grpc.insecure_channel(lossd.grpc) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/lossd.v1.LossService/Evaluate")(b"", timeout=10)


@pytest.fixture(scope="module")
def prometheus(lossd, tmp_path_factory):
    """Prometheus with the configuration of deploy/, but for the target and the intervals."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [lossd.http]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    make_traffic(lossd)
    server = Prometheus(f"127.0.0.1:{free_port()}")
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address={server.address}"], stdout=log, stderr=log)
    try:
        wait_until(server.ready)
        wait_until(lambda: server.query('count_over_time(up{job="lossd"}[1m]) >= 2'))
        make_traffic(lossd)
        wait_until(lambda: server.query("rate(lossd_compute_seconds_count[1m]) > 0"))
        yield server
    finally:
        process.terminate()
        process.wait()


def test_every_query_answers(prometheus):
    silent = []
    for where, expr in dashboard_queries() + [q for q in rule_queries() if q[0] in RECORDED]:
        values = [series["value"][1] for series in prometheus.query(expr)]
        if (not values and where not in EMPTY_ON_A_HEALTHY_SERVER) or "NaN" in values:
            silent.append(f"{where}: {expr}: {values}")
    assert not silent, "no number for:\n" + "\n".join(silent)


def test_every_name_is_exported(prometheus):
    missing = []

    def look_up(where, selector):
        if not prometheus.query(f"count({selector})"):
            missing.append(f"{where}: {selector}")

    for where, expr in dashboard_queries() + rule_queries():
        metrics, grouping_labels = names(expr)
        assert metrics, where
        for metric, labels in metrics.items():
            if metric not in RECORDED:
                look_up(where, metric)
                for label in labels:
                    look_up(where, f'{metric}{{{label}!=""}}')
        for label in grouping_labels:
            look_up(where, f'{{__name__=~"{"|".join(metrics)}", {label}!=""}}')
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            look_up("variable " + variable["name"], f'{metric}{{{label}!=""}}')
    assert not missing, "not in the scrape:\n" + "\n".join(missing)


def test_training_jobs_keep_their_label(prometheus, lossd):
    assert [s["metric"] for s in prometheus.query('lossd_job_loss{job="digits"}')] == [
        {"__name__": "lossd_job_loss", "job": "digits", "instance": lossd.http}]
    assert [s["metric"]["job"] for s in prometheus.query("up")] == ["lossd"]
    assert not prometheus.query('{exported_job!=""}')


def test_no_alert_on_a_healthy_server(prometheus):
    for alert in ALERTS:
        assert not prometheus.query(alert["expr"]), alert["alert"]


def scrape(lossd):
    with urllib.request.urlopen(f"http://{lossd.http}/metrics", timeout=10) as answer:
        return answer.read().decode()


def test_promtool_accepts_the_metrics(lossd):
    make_traffic(lossd)
    promtool = subprocess.run(["promtool", "check", "metrics"], input=scrape(lossd), capture_output=True, text=True)
    assert promtool.returncode == 0, promtool.stdout + promtool.stderr


def test_every_metric_is_documented(lossd):
    make_traffic(lossd)
    exported = set(re.findall(r"^# TYPE (\S+)", scrape(lossd), re.M))
    manual = (ROOT / "docs/operations.md").read_text()
    documented = set(re.findall(r"^\| `((?:lossd|grpc|process)_\w+)`", manual, re.M))
    assert documented == exported


# ---- Prometheus's files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"),
                                       ("test", "rules", "rules_test.yml")], ids=" ".join)
def test_promtool(arguments):
    promtool = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert promtool.returncode == 0, promtool.stdout + promtool.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda a: a["alert"])
def test_alert_is_complete(alert):
    assert alert["labels"]["severity"] in {"page", "ticket", "info"}
    assert {"summary", "description"} <= alert["annotations"].keys()
    tests = [t for case in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
             for t in case.get("alert_rule_test", []) if t["alertname"] == alert["alert"]]
    assert {bool(t["exp_alerts"]) for t in tests} == {True, False}, "must be tested to fire and not to fire"
    assert f"`{alert['alert']}`" in (ROOT / "docs/operations.md").read_text()


def test_scrape_configuration():
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == "lossd" and job["honor_labels"] is True  # what rules.yml and the dashboard build on
    assert job["static_configs"] == [{"targets": ["lossd:9464"]}]


# ---- Grafana's files -------------------------------------------------------------------------------------------------


def test_dashboard_variables():
    used = {name for p in panels() for t in p["targets"] for name in re.findall(r"\$\{?(\w+)", json.dumps(t))}
    defined = {v["name"] for v in DASHBOARD["templating"]["list"]}
    assert used - {"__rate_interval"} == defined
    assert defined - {"datasource"} <= VARIABLES.keys()


@pytest.mark.parametrize("panel", panels(), ids=lambda p: p["title"])
def test_panel(panel):
    assert panel["type"] in {"timeseries", "stat", "table"}
    assert panel["description"] and panel["targets"]
    if panel["type"] != "table":
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_do_not_overlap():
    cells = [(x, y) for p in DASHBOARD["panels"] for g in [p["gridPos"]]
             for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_grafana_provisioning():
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (variable,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "datasource"]
    assert source["uid"] == variable["current"]["value"] and source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/lossd.yml").read_text())["providers"]
    mounts = compose()["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts


# ---- Containers ------------------------------------------------------------------------------------------------------

BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 2**10, "m": 2**20, "g": 2**30}  # Kubernetes, then compose


def to_bytes(text):
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()
    return int(number) * BYTES[unit]


def flags_of(arguments):
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def port_of(listen):
    return int(listen.rsplit(":", 1)[1])


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def dockerfile():
    """The last stage of Dockerfile: {instruction: [arguments]}."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    stage = {}
    for instruction, arguments in re.findall(r"^([A-Z]+) +(.*)$", text, re.M):
        if instruction == "FROM":
            stage = {}
        stage.setdefault(instruction, []).append(arguments)
    return stage


def documented_flags():
    """The table of docs/operations.md: {flag: default}."""
    manual = (ROOT / "docs/operations.md").read_text()
    return dict(re.findall(r"^\| `--(\w+)` \| `([^`]+)`", manual, re.M))


@pytest.fixture(scope="module")
def kubernetes():
    return {o["kind"]: o for o in yaml.safe_load_all((DEPLOY / "kubernetes/lossd.yaml").read_text())}


def test_dockerfile():
    stage = dockerfile()
    assert stage["FROM"] == ["debian:12-slim"]
    assert stage["USER"] == ["65532:65532"]
    assert stage["EXPOSE"] == ["50051 9464"]
    assert json.loads(stage["ENTRYPOINT"][0]) == ["lossd"]
    assert json.loads(stage["HEALTHCHECK"][0].split("CMD ")[1]) == ["lossctl", "health"]


def test_every_flag_is_documented():
    sources = "".join(path.read_text() for path in sorted((ROOT / "server").glob("*.cc")))
    defined = set(re.findall(r"\bABSL_FLAG\(\s*[^,]+,\s*(\w+)\s*,", sources))
    assert defined and documented_flags().keys() == defined


def test_dockerfile_exposes_the_default_ports():
    defaults = documented_flags()
    ports = [str(port_of(defaults[flag])) for flag in ("grpc_listen", "http_listen")]
    assert ports == dockerfile()["EXPOSE"][0].split()


def test_kubernetes_ports(kubernetes):
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    flags = flags_of(container["args"])
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"grpc": port_of(flags["grpc_listen"]), "metrics": port_of(flags["http_listen"])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    service = kubernetes["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert {p["targetPort"]: p["port"] for p in service["ports"]} == ports
    annotations = kubernetes["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_kubernetes_drain_fits_into_the_grace_period(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sleep_seconds = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > sleep_seconds + int(flags_of(container["args"])["drain_seconds"])
    assert kubernetes["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_kubernetes_memory(kubernetes):
    (container,) = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    flags, limit_bytes = flags_of(container["args"]), to_bytes(container["resources"]["limits"]["memory"])
    # lossd may hold a quarter more than its budget, and 100 MB.
    assert limit_bytes > 1.25 * int(flags["memory_budget_bytes"]) + 1e8
    assert int(flags["max_message_bytes"]) <= int(flags["memory_budget_bytes"])


def test_kubernetes_runs_without_privileges(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    context, (container,) = pod["securityContext"], pod["containers"]
    assert context["runAsNonRoot"] is True and context["seccompProfile"]["type"] == "RuntimeDefault"
    assert [f"{context['runAsUser']}:{context['runAsGroup']}"] == dockerfile()["USER"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def test_kubernetes_selectors(kubernetes):
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    selectors = [kubernetes["Service"]["spec"]["selector"]]
    selectors += [kubernetes[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors += [c["labelSelector"]["matchLabels"] for c in pod["topologySpreadConstraints"]]
    assert all(s == labels for s in selectors)


def test_compose():
    services = compose()["services"]
    lossd = services["lossd"]
    flags = flags_of(lossd["command"])
    assert to_bytes(lossd["mem_limit"]) > 1.25 * int(flags["memory_budget_bytes"]) + 1e8
    assert int(lossd["stop_grace_period"].removesuffix("s")) > int(flags["drain_seconds"])
    build = lossd["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == (ROOT / "Dockerfile").resolve()
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for source in (v.split(":")[0] for v in service.get("volumes", [])):
            assert source in compose()["volumes"] or (DEPLOY / source).exists()
