"""The command `offramp top`: its options, one call, and what it prints."""

import time

import click

from ..metrics_view import describe_snapshot, watch_snapshots
from ..options import as_json, examples, parse_seconds
from ..output import print_result


@click.command(epilog=examples("offramp top digits.offramp --once", "offramp top http://jetson:9464/metrics"))
@click.argument("source")
@click.option("--every", default="1s", show_default=True, help="How often to look: 500ms, 10s.")
@click.option("--once", is_flag=True, help="Print what was counted since the start, and end.")
@click.option("--net", help="Which network of a page, by its name (Metrics(net, name=...)). Default: the first.")
@as_json
def top(source: str, every: str, once: bool, net: str | None, as_json: bool) -> None:
    """Show live what a product does: where its inputs leave, how long calls take, what goes wrong.

    SOURCE is a file that the product writes (Metrics(net, file=...)), the address of a page that it serves (Metrics.serve), such
    as http://jetson:9464/metrics, or a bundle. A bundle is run here on its golden samples, back to back: latencies and power are
    those of this device, and the exits are not those of a product's inputs.

    Shares and latencies are those of the last minute, with --once those since the start. Ctrl-C ends it. With --json each look is
    one document in a line.
    """
    from ...runtime import follow_metrics

    every_s = parse_seconds("--every", every, least=0.1)
    snapshots = follow_metrics(source, every_s=every_s, net=net)
    if once:
        snapshot = next(snapshots)
        print_result(snapshot, as_json, lambda: describe_snapshot(snapshot, now_s=time.time()))
    else:
        watch_snapshots(snapshots, every_s, as_json)
