# The options of services.lxmesh.settings: every key of the host file, typed, from the schema that
# `lxmesh-gen schema` prints (nix/schema.json; a test compares). What is not set stays out of the
# host file, so that LXMesh's defaults hold. What a type cannot say, `lxmesh-gen check` says when
# the system is built.
{ lib }:
let
  inherit (lib) mkOption types;
  schema = builtins.fromJSON (builtins.readFile ./schema.json);

  typeOf =
    key:
    if key ? const then
      types.enum [ key.const ]
    else if key ? anyOf then
      types.either (typeOf (builtins.elemAt key.anyOf 0)) (typeOf (builtins.elemAt key.anyOf 1))
    else if key ? enum then
      types.enum key.enum
    else
      {
        string = types.str;
        boolean = types.bool;
        integer = types.ints.between (key.minimum or 0) (key.maximum or 4294967295);
        array = types.listOf (typeOf key.items);
        object =
          if key ? properties then
            types.submodule { options = optionsOf key; }
          else
            types.attrsOf (typeOf key.additionalProperties);
      }
      .${key.type};

  isTable = key: key ? properties;
  optionsOf =
    table:
    builtins.mapAttrs (
      name: key:
      let
        base = {
          # That of a list of tables is its table's.
          description =
            if key.description or "" != "" then key.description else key.items.description or "";
          type = typeOf key;
        };
      in
      if builtins.elem name table.required then
        mkOption base
      # A table of which nothing has to be given is empty, not absent.
      else if isTable key && key.required == [ ] then
        mkOption (base // { default = { }; })
      else
        mkOption (
          base
          // {
            type = types.nullOr base.type;
            default = null;
          }
        )
    ) table.properties;
  declared = optionsOf schema;
in
declared
// {
  version = mkOption {
    inherit (declared.version) description type;
    default = 1;
  };
  # Rendered when the system is built, where no address can be detected.
  host = mkOption {
    inherit (declared.host) description;
    type = types.submodule {
      options = optionsOf (schema.properties.host // { required = [ "underlay" ]; });
    };
  };
}
