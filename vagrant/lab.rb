# What the labs have in common: hosts on underlay networks, each provisioned by the Debian package
# and lxmesh-gen. A lab's Vagrantfile says which hosts there are; its host.toml is the fleet's.
#
#   LXMESH_DEB   the package; by default the newest in target/debian (debian/build makes it)
#   LXMESH_BOX   the box; by default debian/trixie64, or what vagrant/box.sh made: lxmesh/trixie
#   LXMESH_EMULATE    set: libvirt's machines are emulated although there is KVM
#   LXMESH_CONSOLES   a directory where each of libvirt's machines writes its console
require "fileutils"
require "securerandom"

module Lab
  HERE = File.expand_path(__dir__)

  # hosts: name => { underlay: { "network" => "address" }, routes: { "prefix" => "router" },
  #                  role: :supervisor | :reflector | :router }
  def self.define(config, name, hosts)
    config.vm.box = ENV.fetch("LXMESH_BOX", "debian/trixie64")
    config.vm.synced_folder ".", "/vagrant", disabled: true
    providers(config)
    # an emulated machine with a busy processor is slow, not dead
    config.vm.boot_timeout = 1200
    deb = package
    hosts.each do |host, plan|
      config.vm.define host do |machine|
        machine.vm.hostname = host
        console(machine, host)
        plan.fetch(:underlay).each { |network, address| underlay(machine, "#{name}-#{network}", address) }
        machine.vm.provision "file", source: File.join(HERE, name, "host.toml"), destination: "/tmp/host.toml"
        machine.vm.provision "file", source: deb, destination: "/tmp/lxmesh.deb"
        encryption(machine, name) if plan[:role] != :router
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

  # The key that all hosts of an encrypted fabric share: made once per lab, beside Vagrant's own state.
  def self.encryption(machine, name)
    return unless File.read(File.join(HERE, name, "host.toml")).include?("psk_file")

    state = ENV.fetch("VAGRANT_DOTFILE_PATH", File.join(HERE, name, ".vagrant"))
    secret = File.join(state, "ipsec.secret")
    unless File.exist?(secret)
      FileUtils.mkdir_p(state)
      File.write(secret, "secret = 0x#{SecureRandom.hex(32)}\n", perm: 0o600)
    end
    machine.vm.provision "file", source: secret, destination: "/tmp/ipsec.secret"
  end

  def self.console(machine, host)
    directory = ENV["LXMESH_CONSOLES"]
    return unless directory

    machine.vm.provider :libvirt do |libvirt|
      libvirt.serial type: "file", source: { path: File.join(directory, "#{host}.log") }
    end
  end

  def self.providers(config)
    config.vm.provider :libvirt do |libvirt|
      libvirt.memory = 1024
      libvirt.cpus = 1
      libvirt.graphics_type = "none"
      # what is on the disks is worth nothing after the lab
      libvirt.disk_driver cache: "unsafe"
      # Emulated where there is no KVM: slow, but it runs. The newest processor that can be emulated
      # has five levels of page tables, which only cost time; this one has AES.
      unless File.writable?("/dev/kvm") && ENV["LXMESH_EMULATE"].nil?
        libvirt.driver = "qemu"
        libvirt.cpu_mode = "custom"
        libvirt.cpu_model = "Westmere"
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
