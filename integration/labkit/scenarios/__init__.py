"""What the lab must show: named tests on real LXD or Incus, FRR, dnsmasq and networkd.

A theme is a module; a test is a function with the decorator `scenario`, called with a Scene.
Tests run in the order of the themes here, gentle ones first. Each leaves the hosts as it
found them.
"""

import importlib

THEMES = (
    "addresses", "policy", "lifecycle", "move", "cluster", "claims", "routes", "datapath", "restarts", "repair", "frr", "underlay", "lxd_faults", "virtual", "foreign", "apply",
    "closed", "ipsec_wire", "ipsec", "confined",
)
# importing a theme registers its tests
for _theme in THEMES:
    importlib.import_module(f"{__name__}.{_theme}")
