"""A worker on another host, behind a network that loses packets and is cut for a while."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.stack.cluster import Cluster, Load, WorkerBox
from tests.stack.harness import wait_for
from tests.stack.wire import HERE, TUN, two_hosts


@pytest.mark.extended
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists(TUN), reason="network namespaces and TUN devices need root")
def test_a_worker_behind_a_poor_network_that_is_cut_for_a_while(own_home: Path, packages: Path, tmp_path: Path) -> None:
    with two_hosts(delay=0.02, loss=0.01) as (wire, on_other_host):
        cluster = Cluster(own_home, tmp_path, "--host", "0.0.0.0", "--access", "open")
        try:
            cluster.server.start()
            url = f"http://{HERE}:{cluster.server.port}"
            box = cluster.boxes["far"] = WorkerBox(url, tmp_path, "far", cluster.token_file, on_other_host)
            box.start()
            print(f"ready after {cluster.wait_for_workers(1):.1f} s")
            with Load(cluster, packages, of_each=2) as load:
                wait_for(lambda: load.told() and load.right > 10, 60, "answers")
                load.survives("20 ms each way, 1 % lost", lambda: None, 10)
                before = load.right
                wire.is_cut = True
                time.sleep(30)
                wire.is_cut = False
                back = cluster.wait_for_workers(1, 10)
                time.sleep(5)
                failures, gap = load.told()
                print(f"cut for 30 s: {gap:.1f} s without answers, the worker back after {back:.1f} s")
                assert failures == [] and load.right > before, failures[:3]
            print(f"{load.right} right answers, {wire.carried} packets, {wire.lost} lost")
        finally:
            cluster.stop()
