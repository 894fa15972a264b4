"""Node devices as libvirt describes them: one without SR-IOV, and functions of one that has it."""

PLAIN = """<device>
  <name>pci_0000_af_00_0</name>
  <path>/sys/devices/pci0000:ae/0000:ae:00.0/0000:af:00.0</path>
  <parent>pci_0000_ae_00_0</parent>
  <driver>
    <name>vfio-pci</name>
  </driver>
  <capability type='pci'>
    <class>0x030200</class>
    <domain>1</domain>
    <bus>175</bus>
    <slot>0</slot>
    <function>0</function>
    <product id='0x1eb8'>TU104GL [Tesla T4]</product>
    <vendor id='0x10de'>NVIDIA Corporation</vendor>
    <iommuGroup number='31'>
      <address domain='0x0001' bus='0xaf' slot='0x00' function='0x0'/>
    </iommuGroup>
    <numa node='1'/>
  </capability>
</device>
"""
PHYSICAL = """<device>
  <name>pci_0000_06_00_1</name>
  <parent>pci_0000_00_1c_0</parent>
  <capability type='pci'>
    <class>0x020000</class>
    <domain>0</domain>
    <bus>6</bus>
    <slot>0</slot>
    <function>1</function>
    <product id='0x10c9'>82576 Gigabit Network Connection</product>
    <vendor id='0x8086'>Intel Corporation</vendor>
    <capability type='virt_functions' maxCount='7'>
      <address domain='0x0000' bus='0x06' slot='0x12' function='0x1'/>
      <address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/>
    </capability>
    <numa node='0'/>
  </capability>
</device>
"""
WITHOUT_FUNCTIONS = PHYSICAL.replace("""    <capability type='virt_functions' maxCount='7'>
      <address domain='0x0000' bus='0x06' slot='0x12' function='0x1'/>
      <address domain='0x0000' bus='0x06' slot='0x12' function='0x5'/>
    </capability>
""", "    <capability type='virt_functions' maxCount='7'/>\n")
VIRTUAL = """<device>
  <name>pci_0000_06_12_5</name>
  <parent>pci_0000_00_1c_0</parent>
  <capability type='pci'>
    <domain>0</domain>
    <bus>6</bus>
    <slot>18</slot>
    <function>5</function>
    <product id='0x10ca'>82576 Virtual Function</product>
    <vendor id='0x8086'>Intel Corporation</vendor>
    <capability type='phys_function'>
      <address domain='0x0000' bus='0x06' slot='0x00' function='0x1'/>
    </capability>
    <numa node='-1'/>
  </capability>
</device>
"""
