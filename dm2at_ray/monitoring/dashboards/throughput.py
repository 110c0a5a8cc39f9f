"""The dashboard *Throughput*: how fast the stages are, and what the nodes have to say for themselves."""

from __future__ import annotations

from dm2at_ray.monitoring.dashboards.panels import RUN, Dashboard, Panel, Query, Row, Variable

SESSION = Variable("session", "Ray session", 'label_values(dm2at_run_info{run="$run"}, session)')
"""The Ray session that drives the run: Ray's own metrics have its name, and not the run's."""

OURS = 'SessionName="$session"'


STAGES = Row(
    "Stages",
    (
        Panel(
            "Images a second by stage",
            "So far in the stage in progress, else the last time that it finished.",
            (Query('max by (stage) (dm2at_stage_images_per_second{run="$run"})', "{{stage}}"),),
            unit="images/s",
            limits=(0.0, None),
        ),
        Panel(
            "Images a second by stage and node",
            "The same by node, for the stages whose pieces are done on one node each.",
            (
                Query(
                    'max by (stage, node) (dm2at_node_images_per_second{run="$run"})',
                    "{{stage}} {{node}}",
                ),
            ),
            unit="images/s",
            limits=(0.0, None),
        ),
        Panel(
            "Images by node",
            "Images that each node has worked on since the run began, all stages together.",
            (
                Query(
                    'sum by (node) (max by (stage, node) (dm2at_node_images_total{run="$run"}))', "{{node}}"
                ),
            ),
            "bargauge",
            limits=(0.0, None),
        ),
    ),
)

WORKERS = Row(
    "Actors and workers",
    (
        Panel(
            "Actors by state",
            "RESTARTING is an actor that died and is started again.",
            (Query(f'sum by (State) (ray_actors{{Source="gcs", {OURS}}})', "{{State}}"),),
            stacked=True,
            limits=(0.0, None),
        ),
        Panel(
            "Actor restarts",
            "Actors that are being started again, and workers that ended unasked in the last five minutes.",
            (
                Query(
                    f'sum(ray_actors{{Source="gcs", State="RESTARTING", {OURS}}}) or vector(0)', "restarting"
                ),
                Query(
                    f"sum by (instance) "
                    f"(increase(ray_node_manager_unexpected_worker_failure_total{{{OURS}}}[5m]))",
                    "lost workers {{instance}}",
                ),
            ),
            limits=(0.0, None),
        ),
        Panel(
            "Tasks by state",
            "Tasks that Ray has not finished.",
            (
                Query(
                    f'clamp_min(sum by (State) (ray_tasks{{State!~"FINISHED|FAILED", {OURS}}}), 0)',
                    "{{State}}",
                ),
            ),
            stacked=True,
            limits=(0.0, None),
        ),
    ),
)

NODES = Row(
    "Nodes",
    (
        Panel(
            "CPU",
            "CPU use of each node.",
            (Query(f"max by (instance) (ray_node_cpu_utilization{{{OURS}}})", "{{instance}}"),),
            unit="percent",
            limits=(0.0, 100.0),
        ),
        Panel(
            "Memory",
            "Memory in use on each node.",
            (Query(f"max by (instance) (ray_node_mem_used{{{OURS}}})", "{{instance}}"),),
            unit="bytes",
            limits=(0.0, None),
        ),
        Panel(
            "GPU use",
            "Use of each GPU; without GPUs there is nothing to show.",
            (
                Query(
                    f"max by (instance, GpuIndex) (ray_node_gpus_utilization{{{OURS}}})",
                    "{{instance}} {{GpuIndex}}",
                ),
            ),
            unit="percent",
            limits=(0.0, 100.0),
        ),
        Panel(
            "GPU memory",
            "Memory in use on each GPU.",
            (
                Query(
                    f"max by (instance, GpuIndex) (ray_node_gram_used{{{OURS}}}) * 1024 * 1024",
                    "{{instance}} {{GpuIndex}}",
                ),
            ),
            unit="bytes",
            limits=(0.0, None),
        ),
        Panel(
            "Object store",
            "Bytes of objects in each node's store, and what the stores can hold in all.",
            (
                Query(
                    f'sum by (instance) (ray_object_store_memory{{Location=~"MMAP_SHM|MMAP_DISK", {OURS}}})',
                    "{{instance}}",
                ),
                Query(f'sum(ray_resources{{Name="object_store_memory", {OURS}}})', "room in all"),
            ),
            unit="bytes",
            limits=(0.0, None),
        ),
        Panel(
            "Spill",
            "Bytes of objects that did not fit and lie on the nodes' disks.",
            (
                Query(
                    f'sum by (instance) (ray_object_store_memory{{Location="SPILLED", {OURS}}})',
                    "{{instance}}",
                ),
            ),
            unit="bytes",
            limits=(0.0, None),
        ),
        Panel(
            "Disk",
            "Free share of the disk of each node.",
            (
                Query(
                    f"max by (instance) (ray_node_disk_free{{{OURS}}}) / "
                    f"(max by (instance) (ray_node_disk_free{{{OURS}}}) "
                    f"+ max by (instance) (ray_node_disk_usage{{{OURS}}}))",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            limits=(0.0, 1.0),
        ),
        Panel(
            "Network received",
            "Bytes a second that each node receives.",
            (Query(f"max by (instance) (ray_node_network_receive_speed{{{OURS}}})", "{{instance}}"),),
            unit="Bps",
            limits=(0.0, None),
        ),
        Panel(
            "Network sent",
            "Bytes a second that each node sends.",
            (Query(f"max by (instance) (ray_node_network_send_speed{{{OURS}}})", "{{instance}}"),),
            unit="Bps",
            limits=(0.0, None),
        ),
    ),
)

THROUGHPUT = Dashboard(
    uid="dm2at-throughput",
    title="dm2at / Throughput",
    about="How fast the stages are, and what the nodes under them have to say.",
    variables=(RUN, SESSION),
    rows=(STAGES, WORKERS, NODES),
)
