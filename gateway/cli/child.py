"""`backhaul child`: how the supervisor starts its children, configured by variables; no command for people."""

from argparse import Namespace

from gateway.cli.options import Parser, configuration


def parser() -> Parser:
    """Return the parser of the child's arguments."""
    command = Parser(prog="backhaul child", allow_abbrev=False)
    command.add_argument("name", choices=("clickhouse", "gateway", "warehouse"))
    command.add_argument("--lifeline", type=int, required=True)
    command.add_argument("--pulse", type=int, required=True)
    command.add_argument("--socket", type=int, default=-1)
    command.add_argument("--worker", type=int, default=1)
    command.add_argument("--inner-socket", type=int, default=-1)
    command.add_argument("--inner-ports", type=int, nargs="*", default=[])
    command.set_defaults(run=_child, data=None, config=None)
    return command


def _child(arguments: Namespace) -> int:
    from gateway.supervisor.children import Bonds, run_child
    from gateway.supervisor.workers import Place

    bonds = Bonds(arguments.lifeline, arguments.pulse)
    place = Place(arguments.worker, arguments.socket, arguments.inner_socket, tuple(arguments.inner_ports))
    return run_child(arguments.name, configuration(arguments), bonds, place)
