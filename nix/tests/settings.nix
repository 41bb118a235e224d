# The host of the golden file: the example of the documentation, with a few more keys.
{
  fabric = {
    name = "example";
    asn = 64500;
    reflectors = [
      "203.0.113.100"
      "198.51.100.200"
    ];
    supervisors = [
      "203.0.113.0/24"
      "198.51.100.0/24"
    ];
    services = [
      "tcp/3128"
      "udp/123@203.0.113.100"
    ];
  };
  host.underlay = "203.0.113.11";
  dhcp.lease_s = 1800;
  tags = {
    bastion = 0;
    web = 1;
  };
  network = [
    {
      name = "vpc";
      vni = 100;
      gateway = [
        "192.0.2.1/24"
        "2001:db8::1/64"
      ];
    }
    {
      name = "blue";
      vni = 200;
      vrf = "tenant";
      multicast = true;
      host_routes = "vrf";
      projects = [
        "default"
        "shop"
      ];
    }
  ];
  tenant = [
    {
      project = "shop";
      networks = [ "blue" ];
      addresses = [ ];
      tags = [ "web" ];
    }
    {
      project = "*";
      tags = [ ];
    }
  ];
}
