# [Service] of debian/lxmesh-agent.service, less its commands and AppArmor; a test compares the two.
{
  AmbientCapabilities = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE";
  CapabilityBoundingSet = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE";
  Group = "lxmesh";
  KeyringMode = "private";
  KillMode = "mixed";
  LockPersonality = "yes";
  MemoryDenyWriteExecute = "yes";
  NoNewPrivileges = "yes";
  NotifyAccess = "main";
  OOMScoreAdjust = "-500";
  PrivateDevices = "yes";
  PrivateMounts = "yes";
  PrivateTmp = "yes";
  ProtectClock = "yes";
  ProtectControlGroups = "yes";
  ProtectHome = "yes";
  ProtectHostname = "yes";
  ProtectKernelLogs = "yes";
  ProtectKernelModules = "yes";
  ProtectKernelTunables = "yes";
  ProtectProc = "invisible";
  ProtectSystem = "strict";
  ReadWritePaths = "/proc/sys/net";
  RemoveIPC = "yes";
  Restart = "always";
  RestartMaxDelaySec = "60";
  RestartSec = "1";
  RestartSteps = "6";
  RestrictAddressFamilies = "AF_UNIX AF_NETLINK AF_INET AF_INET6";
  RestrictNamespaces = "yes";
  RestrictRealtime = "yes";
  RestrictSUIDSGID = "yes";
  RuntimeDirectory = "lxmesh lxmesh/dnsmasq";
  RuntimeDirectoryMode = "0755";
  RuntimeDirectoryPreserve = "yes";
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources"
    "bpf"
  ];
  TimeoutStartSec = "60";
  TimeoutStopSec = "10";
  Type = "notify";
  UMask = "0077";
  User = "lxmesh";
  WatchdogSec = "30";
}
