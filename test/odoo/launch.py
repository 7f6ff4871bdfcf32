"""Starts Odoo as its own command does, also on a Python newer than it knows.

Odoo 19 was written for Python 3.12; Debian runs it on 3.14. What is missing is
added to the running program, the installed files stay as they are.
"""

import os
import sys

os.environ["TZ"] = "UTC"  # before anything imports time, as Odoo's command does
os.environ.setdefault("PYTZ_TZDATADIR", "/usr/share/zoneinfo")

if sys.version_info >= (3, 14):
    import opcode

    import odoo.init  # noqa: F401 - Odoo wants to be first
    from odoo.tools import misc, safe_eval

    if "copy" not in vars(misc.OrderedSet):
        # dataclasses and copy helpers of 3.14 copy mutable sets by this method.
        misc.OrderedSet.copy = lambda self: type(self)(self)

    # The instructions that 3.14's compiler emits for what was allowed before.
    NEW = (
        "LOAD_SMALL_INT LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW"
        " LOAD_COMMON_CONSTANT LOAD_SPECIAL NOT_TAKEN POP_ITER BUILD_INTERPOLATION"
        " BUILD_TEMPLATE ANNOTATIONS_PLACEHOLDER DUP_TOP"
    ).split()
    known = {opcode.opmap[name] for name in NEW if name in opcode.opmap}
    for name in ("_CONST_OPCODES", "_EXPR_OPCODES", "_SAFE_OPCODES"):
        getattr(safe_eval, name).update(known)

import odoo.cli  # noqa: E402

odoo.cli.main()
