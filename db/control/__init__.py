"""Tables and queries of the embedded control plane, one module for each group of tables.

Query functions take a connection (see :class:`db.control.store.Store`) and give plain dicts whose
values are as on the wire: times are ``YYYY-MM-DDTHH:MM:SSZ``, booleans are booleans.
"""
