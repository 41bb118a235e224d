# Settings that the types have to refuse.
let
  right = import ./settings.nix;
in
[
  (right // { typo = 1; })
  (right // { fabric = right.fabric // { asn = 0; }; })
  (right // { fabric = removeAttrs right.fabric [ "name" ]; })
  (right // { host = { }; })
  (right // { network = [ { name = "vpc"; vni = "100"; } ]; })
  (right // { network = [ { name = "vpc"; vni = 16777215; } ]; })
  (right // { dhcp.lease_s = 60; })
  (right // { tags.web = 16; })
]
