"""The lab: whole Debian hosts with LXD, FRR and LXMesh, in one virtual machine.

Test scenarios use `labkit.lab.Lab`; people use the command `integration/lab`.
"""
