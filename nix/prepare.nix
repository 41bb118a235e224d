# [Service] of debian/lxmesh-prepare.service, less its command; a test compares the two.
{
  CapabilityBoundingSet = "CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_SYS_ADMIN CAP_CHOWN CAP_FOWNER";
  KeyringMode = "private";
  LockPersonality = "yes";
  MemoryDenyWriteExecute = "yes";
  NoNewPrivileges = "yes";
  RestrictAddressFamilies = "none";
  RestrictRealtime = "yes";
  RestrictSUIDSGID = "yes";
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = "@system-service @mount bpf";
  Type = "oneshot";
  UMask = "0077";
}
