"""The compute RPC methods as Nova's own code has them. Runs in Nova's virtual environment."""

import ast
import inspect

from nova import safe_utils
from nova.compute import manager, rpcapi


def _sent(tree):
    """Yield (method, kind) for each cast or call in Nova's ComputeAPI client."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("cast", "call") and len(node.args) > 1 and isinstance(
                node.args[1], ast.Constant):
            yield node.args[1].value, node.func.attr


def server_methods():
    """Return {method: {kinds, args, optional}} of every method that Nova's client sends."""
    kinds = {}
    for method, kind in _sent(ast.parse(inspect.getsource(rpcapi))):
        kinds.setdefault(method, set()).add(kind)
    found = {}
    for method, sent in sorted(kinds.items()):
        served = safe_utils.get_wrapped_function(getattr(manager.ComputeManager, method))
        parameters = list(inspect.signature(served).parameters.values())[2:]
        found[method] = {
            "kinds": sorted(sent),
            "args": [p.name for p in parameters if p.default is p.empty],
            "optional": [p.name for p in parameters if p.default is not p.empty],
        }
    return found
