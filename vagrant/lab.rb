# What the labs have in common: hosts on underlay networks, each provisioned by the Debian package
# and lxmesh-gen. A lab's Vagrantfile says which hosts there are; its host.toml is the fleet's.
#
#   LXMESH_DEB   the package; by default the newest in target/debian (debian/build makes it)
#   LXMESH_BOX   the box; by default debian/trixie64, or what vagrant/box.sh made: lxmesh/trixie
module Lab
  HERE = File.expand_path(__dir__)

  # hosts: name => { underlay: { "network" => "address" }, routes: { "prefix" => "router" },
  #                  role: :supervisor | :reflector | :router }
  def self.define(config, name, hosts)
    config.vm.box = ENV.fetch("LXMESH_BOX", "debian/trixie64")
    config.vm.synced_folder ".", "/vagrant", disabled: true
    providers(config)
    deb = package
    hosts.each do |host, plan|
      config.vm.define host do |machine|
        machine.vm.hostname = host
        plan.fetch(:underlay).each { |network, address| underlay(machine, "#{name}-#{network}", address) }
        machine.vm.provision "file", source: File.join(HERE, name, "host.toml"), destination: "/tmp/host.toml"
        machine.vm.provision "file", source: deb, destination: "/tmp/lxmesh.deb"
        machine.vm.provision "shell", path: File.join(HERE, "provision.sh"), args: arguments(plan)
        extra = File.join(HERE, name, "#{plan[:role]}.sh")
        machine.vm.provision "shell", path: extra if File.exist?(extra)
      end
    end
  end

  def self.arguments(plan)
    routes = plan.fetch(:routes, {}).map { |prefix, router| "#{prefix}=#{router}" }
    [plan.fetch(:role).to_s, *routes]
  end

  def self.underlay(machine, network, address)
    machine.vm.network "private_network",
                       ip: address,
                       netmask: "255.255.255.0",
                       virtualbox__intnet: network,
                       libvirt__network_name: network,
                       libvirt__dhcp_enabled: false,
                       libvirt__forward_mode: "none"
  end

  def self.providers(config)
    config.vm.provider :libvirt do |libvirt|
      libvirt.memory = 1024
      libvirt.cpus = 1
      # Emulated where there is no KVM: slow, but it runs.
      unless File.writable?("/dev/kvm") && ENV["LXMESH_EMULATE"].nil?
        libvirt.driver = "qemu"
        libvirt.cpu_mode = "maximum"
      end
    end
    config.vm.provider :virtualbox do |virtualbox|
      virtualbox.memory = 1024
      virtualbox.cpus = 1
    end
  end

  def self.package
    given = ENV["LXMESH_DEB"]
    return given if given

    Dir[File.join(HERE, "../target/debian/lxmesh_*.deb")].max_by { |path| File.mtime(path) } ||
      File.join(HERE, "../target/debian/lxmesh.deb-is-missing-run-debian-build")
  end
end
