"""Stoker's Grafana dashboards, from a compact description. `generate` writes them, `check` compares, `panels` asks their queries.

A panel has a title, a unit, a sentence that says how to read it, and queries with legends. Where panels go follows from their order:
left to right, a row's end at 24 columns. Queries take the metrics as pods expose them, so that they work without our rules.
"""

import dataclasses
import json

# In a query: the model that is looked at. Operator's series, routers' series, and those of model pods.
MODEL = 'namespace="$namespace",model_deployment="$model"'
ROUTE = 'namespace="$namespace",route="$model"'
# What the queries' own variables stand for when a query is asked outside of Grafana.
INTERVAL = "5m"
SCHEMA = 39


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel. `sparse` says when it has no data although all is well; `most` is an upper end of its axis."""

    title: str
    unit: str
    description: str
    queries: tuple
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    sparse: str = ""
    stacked: bool = False
    most: float = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A heading."""

    title: str


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """A dashboard. `variables` are (name, label, query, all values may be chosen)."""

    uid: str
    title: str
    description: str
    variables: tuple
    parts: tuple

    @property
    def panels(self):
        """Its panels without headings."""
        return [part for part in self.parts if isinstance(part, Panel)]

    @property
    def file(self):
        """The name of its file."""
        return f"{self.uid}.json"


def quantiles(histogram, selector, by="revision"):
    """Queries for p50, p95 and p99 by a label."""
    return tuple(
        (
            f"histogram_quantile({q}, sum by (le, {by}) (rate({histogram}_bucket{{{selector}}}[$__rate_interval])))",
            f"{name} {{{{{by}}}}}",
        )
        for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    )


def gauges(by, *queries):
    """Operator's gauges, each once although two operators may have told them in turn."""
    return tuple((f"max by ({by}) ({expr})" if by else f"max({expr})", legend) for expr, legend in queries)


IN_RUN = "only in a run or its guard"
MODELS = Dashboard(
    uid="stoker-models",
    title="Stoker: models",
    description="One model: what its clients see, where its rollout is and why, its pods.",
    variables=(
        ("namespace", "Namespace", "label_values(stoker_rollout_phase, namespace)", False),
        ("model", "Model", 'label_values(stoker_rollout_phase{namespace="$namespace"}, model_deployment)', False),
    ),
    parts=(
        Row("What clients see"),
        Panel(
            "Requests", "reqps", "Answers to clients by revision and class. A rollout shows as the candidate's share growing.",
            ((f"sum by (revision, code) (rate(stoker_router_requests_total{{{ROUTE}}}[$__rate_interval]))", "{{revision}} {{code}}"),),
            stacked=True,
        ),
        Panel(
            "Failed", "percentunit", "Share of the answers that are failures (5xx, or the like of gRPC), after retries, by revision.",
            (
                (
                    f'sum by (revision) (rate(stoker_router_requests_total{{{ROUTE},code="5xx"}}[$__rate_interval]))'
                    f" / sum by (revision) (rate(stoker_router_requests_total{{{ROUTE}}}[$__rate_interval]))",
                    "{{revision}}",
                ),
            ),
        ),
        Panel(
            "Latency", "s", "Percentiles of attempts that succeeded, by revision, with the target. From the first byte sent to a pod to the last received.",
            (
                *quantiles("stoker_router_latency_seconds", ROUTE),
                *gauges("percentile", (f"stoker_rollout_latency_target_seconds{{{MODEL}}}", "target of {{percentile}}")),
            ),
        ),
        Panel(
            "Refused by routers", "reqps", "Requests of the whole namespace that routers refused, by reason; such a request belongs to no revision.",
            (('sum by (reason) (rate(stoker_router_refusals_total{namespace="$namespace"}[$__rate_interval]))', "{{reason}}"),),
            sparse="no request was refused",
        ),
        Panel(
            "Tried again", "reqps", "Requests of the whole namespace that were sent to another pod: after a failure, after a pod turned them away, and failures for which the budget was spent.",
            (
                ('sum(rate(stoker_router_retries_total{namespace="$namespace"}[$__rate_interval]))', "after a failure"),
                ('sum(rate(stoker_router_elsewhere_total{namespace="$namespace"}[$__rate_interval]))', "turned away"),
                ('sum(rate(stoker_router_retries_denied_total{namespace="$namespace"}[$__rate_interval]))', "budget spent"),
            ),
        ),
        Panel(
            "In flight", "short", "Requests that pods work on, by revision, and those of the whole namespace that wait for a pod.",
            (
                (f"sum by (revision) (stoker_router_in_flight{{{ROUTE}}})", "{{revision}}"),
                ('sum(stoker_router_held{namespace="$namespace"})', "held in the namespace"),
            ),
        ),
        Row("Rollout"),
        Panel(
            "Phase", "none", "The phase of status, and how far the run is.",
            (
                *gauges("phase", (f"stoker_rollout_phase{{{MODEL}}}", "{{phase}}")),
                *gauges("", (f"stoker_rollout_step{{{MODEL}}}", "step"), (f"stoker_rollout_steps{{{MODEL}}}", "of steps")),
            ),
            kind="stat", width=4,
        ),
        Panel(
            "Verdict", "none", "The verdict on the candidate, or on stable in its guard: Pass, Fail, Inconclusive, Error.",
            gauges("verdict", (f"stoker_rollout_verdict{{{MODEL}}}", "{{verdict}}")),
            kind="stat", width=4, sparse=IN_RUN,
        ),
        Panel(
            "Weight, wanted and verified", "percentunit", "Shares of the traffic as the operator wants them, and as the last table says that all routers were seen to serve. While they differ, a router is behind.",
            gauges(
                "revision",
                (f"stoker_rollout_weight_wanted_ratio{{{MODEL}}}", "wanted {{revision}}"),
                (f"stoker_rollout_weight_verified_ratio{{{MODEL}}}", "verified {{revision}}"),
            ),
            most=1.0,
        ),
        Panel(
            "Evidence of harm and alarm", "none", "Evidence as a power of ten, by the operator and by each router, with the line at which the candidate is taken back. What stays below 0 speaks for the candidate.",
            (
                *gauges("", (f"stoker_rollout_harm_log10{{{MODEL}}}", "operator"), (f"stoker_rollout_alarm_log10{{{MODEL}}}", "alarm")),
                *gauges("pod", (f"stoker_router_harm_log10{{{ROUTE}}}", "router {{pod}}")),
            ),
            sparse=IN_RUN,
        ),
        Panel(
            "Counts of the run", "short", "Attempts of the run by arm, those that failed or were too slow, and how many of the candidate's the step needs.",
            (
                *gauges(
                    "arm, revision",
                    (f"stoker_rollout_attempts{{{MODEL}}}", "{{arm}} attempts"),
                    (f"stoker_rollout_errors{{{MODEL}}}", "{{arm}} errors"),
                    (f"stoker_rollout_slow{{{MODEL}}}", "{{arm}} slow"),
                ),
                *gauges("", (f"stoker_rollout_attempts_wanted{{{MODEL}}}", "wanted")),
            ),
            sparse=IN_RUN,
        ),
        Panel(
            "Standing still", "s", "For how long the run has waited, by what it waits for, and how long its guard goes on.",
            (
                *gauges("why", (f"stoker_rollout_held_seconds{{{MODEL}}}", "held: {{why}}")),
                *gauges("", (f"stoker_rollout_guard_remaining_seconds{{{MODEL}}}", "guard remaining")),
            ),
            sparse="only while a run holds or a guard lasts",
        ),
        Panel(
            "Copies for a shadow", "reqps", "Copies that were sent, by outcome, and the comparison of their answers.",
            (
                (f"sum by (outcome) (rate(stoker_router_mirrored_total{{{ROUTE}}}[$__rate_interval]))", "{{outcome}}"),
                (f"sum by (result) (rate(stoker_router_mirror_comparisons_total{{{ROUTE}}}[$__rate_interval]))", "answers: {{result}}"),
            ),
            sparse="only in a shadow step",
        ),
        Row("Pods and scaling"),
        Panel(
            "Pods", "short", "Pods by revision: to be there, ready by Kubernetes, and those that routers send requests to (the least of all routers).",
            (
                *gauges(
                    "revision",
                    (f"stoker_rollout_pods_wanted{{{MODEL}}}", "wanted {{revision}}"),
                    (f"stoker_rollout_pods_ready{{{MODEL}}}", "ready {{revision}}"),
                ),
                (f"min by (revision) (stoker_router_ready_endpoints{{{ROUTE}}})", "reached {{revision}}"),
                (f"max by (revision) (stoker_router_ejected_endpoints{{{ROUTE}}})", "ejected {{revision}}"),
            ),
        ),
        Panel(
            "Scaling", "short", "Pods that the demand needs, and as many as may be.",
            (
                *gauges("revision", (f"stoker_scaling_replicas{{{MODEL}}}", "{{revision}}")),
                *gauges("", (f"stoker_scaling_replicas_limit{{{MODEL}}}", "scaling.maxReplicas")),
            ),
            sparse="only with spec.scaling",
        ),
        Panel(
            "Demand and capacity", "reqps", "Requests a second that count, and what all pods of the revision carry within the latency target.",
            (
                *gauges("revision", (f"stoker_scaling_demand{{{MODEL}}}", "demand {{revision}}")),
                (
                    f"max by (revision) (stoker_scaling_capacity{{{MODEL}}})"
                    f" * on (revision) max by (revision) (stoker_scaling_replicas{{{MODEL}}})",
                    "capacity {{revision}}",
                ),
            ),
            sparse="only with spec.scaling, and once capacity is known",
        ),
        Panel(
            "Time in a pod", "s", "The 95th percentile of each phase of a request in the pods. queue is the wait for a batch, compute its run.",
            (
                (
                    f'histogram_quantile(0.95, sum by (le, phase) (rate(stoker_server_phase_seconds_bucket{{{MODEL},phase!="total"}}[$__rate_interval])))',
                    "{{phase}}",
                ),
            ),
            sparse="a server of another make has no such figures",
        ),
        Panel(
            "Batch sizes", "short", "Rows of a run of the model: the mean, the 95th percentile, and the most that the estimate allows.",
            (
                (
                    f"sum(rate(stoker_server_batch_rows_sum{{{MODEL}}}[$__rate_interval]))"
                    f" / sum(rate(stoker_server_batch_rows_count{{{MODEL}}}[$__rate_interval]))",
                    "mean",
                ),
                (f"histogram_quantile(0.95, sum by (le) (rate(stoker_server_batch_rows_bucket{{{MODEL}}}[$__rate_interval])))", "p95"),
                (f"max(stoker_server_batch_cap_rows{{{MODEL}}})", "most"),
            ),
            sparse="a server of another make has no such figures",
        ),
        Panel(
            "Refused by pods", "reqps", "Requests that pods gave no answer of the model to, by reason. deadline and queue are overload; the router tries another pod.",
            ((f"sum by (reason) (rate(stoker_server_refusals_total{{{MODEL}}}[$__rate_interval]))", "{{reason}}"),),
            sparse="no request was refused",
        ),
        Panel(
            "Prediction cache", "percentunit", "Share of the requests that were answered from the cache, of those that it had a part in.",
            (
                (
                    f"sum(rate(stoker_server_cache_hits_total{{{MODEL}}}[$__rate_interval]))"
                    f" / (sum(rate(stoker_server_cache_hits_total{{{MODEL}}}[$__rate_interval]))"
                    f" + sum(rate(stoker_server_cache_misses_total{{{MODEL}}}[$__rate_interval])))",
                    "hits",
                ),
            ),
            most=1.0, sparse="only with the cache switched on (--cache)",
        ),
        Panel(
            "Memory of the pods", "bytes", "Resident memory of the largest pod of each revision.",
            ((f'max by (revision) (process_resident_memory_bytes{{{MODEL},job=~"(.*/)?stoker-server"}})', "{{revision}}"),),
            sparse="a server of another make has no such figures",
        ),
    ),
)

FLEET = 'namespace=~"$namespace"'
ROLLOUTS = Dashboard(
    uid="stoker-rollouts",
    title="Stoker: rollouts",
    description="The fleet: which rollouts are under way, which stand still, how they end.",
    variables=(("namespace", "Namespace", "label_values(stoker_rollout_phase, namespace)", True),),
    parts=(
        Row("Now"),
        Panel(
            "Under way", "short", "Runs that go step by step, guards after promotions, and runs that wait for their turn, of all that the operator watches.",
            gauges(
                "",
                ("stoker_rollouts_under_way", "under way"),
                ("stoker_rollouts_guarded", "guarded"),
                ("stoker_rollouts_queued", "queued"),
            ),
            kind="stat", width=6,
        ),
        Panel(
            "Phases", "short", "ModelDeployments by phase.",
            ((f"count by (phase) (max by (namespace, model_deployment, phase) (stoker_rollout_phase{{{FLEET}}}))", "{{phase}}"),),
            width=10, stacked=True,
        ),
        Panel(
            "Verdicts", "short", "Runs and guards by their verdict.",
            ((f"count by (verdict) (max by (namespace, model_deployment, verdict) (stoker_rollout_verdict{{{FLEET}}}))", "{{verdict}}"),),
            stacked=True, sparse="only while a run or guard is under way",
        ),
        Panel(
            "Standing still", "s", "Runs that stand still, by what they wait for, longest first.",
            ((f"sort_desc(max by (namespace, model_deployment, why) (stoker_rollout_held_seconds{{{FLEET}}}))", "{{namespace}}/{{model_deployment}}: {{why}}"),),
            kind="bargauge", width=12, sparse="only while a run stands still",
        ),
        Panel(
            "Closest to the alarm", "percentunit", "Evidence of harm over the alarm's threshold: at 100 % the candidate is taken back.",
            (
                (
                    f"topk(10, max by (namespace, model_deployment) (stoker_rollout_harm_log10{{{FLEET}}})"
                    f" / max by (namespace, model_deployment) (stoker_rollout_alarm_log10{{{FLEET}}}))",
                    "{{namespace}}/{{model_deployment}}",
                ),
            ),
            kind="bargauge", width=12, sparse="only while a run or guard is under way",
        ),
        Row("How they end"),
        Panel(
            "Outcomes", "short", "Runs that ended in the last hour, by outcome.",
            (("sum by (outcome) (increase(stoker_rollout_duration_seconds_count[1h]))", "{{outcome}}"),),
            stacked=True, sparse="only once a run has ended",
        ),
        Panel(
            "Duration of runs", "s", "Median and 95th percentile over a day, by outcome. Buckets go from a minute to a week.",
            tuple(
                (
                    f"histogram_quantile({q}, sum by (le, outcome) (increase(stoker_rollout_duration_seconds_bucket[1d])))",
                    f"{name} {{{{outcome}}}}",
                )
                for name, q in (("p50", 0.5), ("p95", 0.95))
            ),
            sparse="only once a run has ended",
        ),
        Panel(
            "Ways back", "short", "Rollbacks, aborts and undos in the last hour, those from a guard included.",
            (('sum by (reason) (increase(stoker_operator_transitions_total{reason=~"RolledBack|Aborted|Undone"}[1h]))', "{{reason}}"),),
            sparse="only once there was one",
        ),
        Panel(
            "Cuts by routers", "short", "Revisions that routers took out of the traffic in the last hour, by who decided it, and alarms without a cut.",
            (
                (f"sum by (origin) (increase(stoker_router_cuts_total{{{FLEET}}}[1h]))", "cut: {{origin}}"),
                (f"sum by (reason) (increase(stoker_router_cuts_withheld_total{{{FLEET}}}[1h]))", "withheld: {{reason}}"),
            ),
            sparse="only once there was one",
        ),
        Panel(
            "Runs under way", "s", "Time since each run began.",
            ((f"max by (namespace, model_deployment) (stoker_rollout_run_seconds{{{FLEET}}})", "{{namespace}}/{{model_deployment}}"),),
            width=16, sparse="only while a run is under way",
        ),
    ),
)

PARTS = Dashboard(
    uid="stoker-parts",
    title="Stoker: operator and routers",
    description="The parts of Stoker themselves: whether they work, how quick they are, what they take.",
    variables=(("namespace", "Namespace of routers", "label_values(stoker_router_held, namespace)", True),),
    parts=(
        Row("Operator"),
        Panel("Leading", "none", "1 for the operator that leads. There is to be exactly one.", (("stoker_operator_leading", "{{pod}}"),), kind="stat", width=4),
        Panel(
            "Oldest look", "s", "Age of the oldest look: of runs it is to be a second or two, of idle models five minutes at most.",
            (
                ("max(stoker_rollout_look_age_seconds and on (namespace, model_deployment) stoker_rollout_run_seconds)", "in a run"),
                ("max(stoker_rollout_look_age_seconds)", "all"),
            ),
            width=10,
        ),
        Panel(
            "Decision latency", "s", "From the start of a look to the stored decision, and to the written table; median and 99th percentile. It holds the second that a slow router may take.",
            tuple(
                (
                    f"histogram_quantile({q}, sum by (le, until) (rate(stoker_rollout_decision_seconds_bucket[$__rate_interval])))",
                    f"{name} {{{{until}}}}",
                )
                for name, q in (("p50", 0.5), ("p99", 0.99))
            ),
            width=10, sparse="only while a run or guard is under way",
        ),
        Panel(
            "Looks", "ops", "Looks by kind and outcome. Conflicts are normal now and then: somebody was quicker.",
            (("sum by (kind, outcome) (rate(stoker_operator_reconciles_total[$__rate_interval]))", "{{kind}} {{outcome}}"),),
        ),
        Panel(
            "Duration of looks", "s", "99th percentile by kind.",
            (("histogram_quantile(0.99, sum by (le, kind) (rate(stoker_operator_reconcile_seconds_bucket[$__rate_interval])))", "{{kind}}"),),
            sparse="no look ended in the last minutes",
        ),
        Panel(
            "Calls to the API server", "ops", "Calls by outcome, and writes of status. Outside of runs there are no writes.",
            (
                ("sum by (outcome) (rate(stoker_operator_calls_total[$__rate_interval]))", "{{outcome}}"),
                ("sum(rate(stoker_operator_status_writes_total[$__rate_interval]))", "status writes"),
            ),
        ),
        Panel(
            "Questions to routers", "ops", "How often the operator asked routers for their counts, by outcome.",
            (("sum by (outcome) (rate(stoker_operator_router_scrapes_total[$__rate_interval]))", "{{outcome}}"),),
        ),
        Panel(
            "Certificates of routers", "s", "Time that the routers' certificates are still good for. They are made anew in the last third of a year.",
            ((f"min by (namespace) (stoker_operator_router_certificate_expiry_timestamp_seconds{{{FLEET}}}) - time()", "{{namespace}}"),),
        ),
        Panel(
            "Memory of the operator", "bytes", "Resident memory. Its limit in the manifests is 256 MiB.",
            (('process_resident_memory_bytes{job=~"(.*/)?stoker-operator"}', "{{pod}}"),),
        ),
        Row("Routers"),
        Panel(
            "Tables not verified", "short", "Models whose table not all routers serve, or cannot be asked about, and tables that a router refuses.",
            (
                (f"sum(max by (namespace, model_deployment) (1 - stoker_rollout_table_verified{{{FLEET}}}))", "not verified"),
                (f"sum(stoker_router_table_refused{{{FLEET}}})", "refused"),
            ),
        ),
        Panel(
            "Age of tables", "s", "Time since the youngest table of each router came into force: all routers of a namespace are to agree.",
            ((f"min by (namespace, pod) (stoker_router_table_age_seconds{{{FLEET}}})", "{{namespace}}/{{pod}}"),),
        ),
        Panel(
            "Generations apart", "short", "Between the newest and the oldest generation of a table among a namespace's routers; 0 but for moments.",
            (
                (
                    f"max by (namespace) (max by (namespace, route) (stoker_router_table_generation{{{FLEET}}})"
                    f" - min by (namespace, route) (stoker_router_table_generation{{{FLEET}}}))",
                    "{{namespace}}",
                ),
            ),
        ),
        Panel(
            "Requests by router", "reqps", "Answers to clients, by router: the Service spreads connections, not requests.",
            ((f"sum by (namespace, pod) (rate(stoker_router_requests_total{{{FLEET}}}[$__rate_interval]))", "{{namespace}}/{{pod}}"),),
        ),
        Panel(
            "Connections", "short", "Open connections of clients, by router.",
            ((f"sum by (namespace, pod) (stoker_router_data_connections_open{{{FLEET}}})", "{{namespace}}/{{pod}}"),),
        ),
        Panel(
            "Memory of routers", "bytes", "Resident memory of each router. Its limit is that of the ModelRouter, 256 MiB by default.",
            ((f'process_resident_memory_bytes{{{FLEET},job=~"(.*/)?stoker-router"}}', "{{namespace}}/{{pod}}"),),
        ),
        Panel(
            "Processor of operator and routers", "percentunit", "Processor time a second; 100 % is one core.",
            (('rate(process_cpu_seconds_total{job=~"(.*/)?stoker-(operator|router)"}[$__rate_interval])', "{{pod}}"),),
        ),
        Panel(
            "What routers cannot read or write", "ops", "Reads from the API server that failed, and writes of tables to disk that did.",
            (
                (f"sum by (what) (rate(stoker_router_watch_errors_total{{{FLEET}}}[$__rate_interval]))", "read: {{what}}"),
                (f"sum(rate(stoker_router_disk_errors_total{{{FLEET}}}[$__rate_interval]))", "disk"),
            ),
        ),
        Panel(
            "Exchange of evidence", "ops", "Messages between routers, by outcome: four a second to each peer.",
            ((f"sum by (outcome) (rate(stoker_router_exchanges_total{{{FLEET}}}[$__rate_interval]))", "{{outcome}}"),),
            sparse="only while a revision is watched for harm",
        ),
    ),
)

DASHBOARDS = (MODELS, ROLLOUTS, PARTS)


def source():
    return {"type": "prometheus", "uid": "${datasource}"}


def field(panel):
    custom = {}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 20 if panel.stacked else 0, "showPoints": "never"}
        if panel.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults = {"unit": panel.unit, "min": 0}
    if "log10" in panel.queries[0][0] and panel.unit == "none":
        del defaults["min"]
    if panel.most is not None:
        defaults["max"] = panel.most
    if custom:
        defaults["custom"] = custom
    return {"defaults": defaults, "overrides": []}


OPTIONS = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "textMode": "value_and_name", "colorMode": "none", "graphMode": "none", "justifyMode": "auto",
        "orientation": "auto",
    },
    "bargauge": {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "displayMode": "basic", "valueMode": "color", "showUnfilled": True, "orientation": "horizontal",
        "minVizWidth": 8, "minVizHeight": 16,
    },
}


def write_panel(number, panel, x, y):
    targets = [
        {"refId": chr(ord("A") + index), "datasource": source(), "expr": expr, "legendFormat": legend, "range": True}
        for index, (expr, legend) in enumerate(panel.queries)
    ]
    description = panel.description + (f" No data: {panel.sparse}." if panel.sparse else "")
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": description,
        "datasource": source(),
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": field(panel),
        "options": OPTIONS[panel.kind],
        "targets": targets,
    }


def place(parts):
    """Panels with their places."""
    placed, x, y, height = [], 0, 0, 0
    for number, part in enumerate(parts, 1):
        if isinstance(part, Row):
            y, x, height = y + height, 0, 0
            grid = {"x": 0, "y": y, "w": 24, "h": 1}
            placed.append({"id": number, "type": "row", "title": part.title, "collapsed": False, "gridPos": grid, "panels": []})
            y += 1
            continue
        if x + part.width > 24:
            y, x, height = y + height, 0, 0
        placed.append(write_panel(number, part, x, y))
        x, height = x + part.width, max(height, part.height)
    return placed


def variable(name, label, query, every):
    chosen = {"text": "All", "value": "$__all"} if every else {"text": "", "value": ""}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": source(),
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": every,
        "includeAll": every,
        "current": chosen,
    }


def write(dashboard):
    """The dashboard as Grafana reads it, as text."""
    datasource = {
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0,
        "multi": False, "includeAll": False, "current": {"text": "", "value": ""},
    }
    model = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["stoker"],
        "schemaVersion": SCHEMA,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "refresh": "30s",
        "templating": {"list": [datasource, *(variable(*each) for each in dashboard.variables)]},
        "annotations": {"list": []},
        "panels": place(dashboard.parts),
    }
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"


def fill(expr, values):
    """A query with its variables filled in."""
    for name, value in {"__rate_interval": INTERVAL, **values}.items():
        expr = expr.replace(f"${name}", value)
    return expr
