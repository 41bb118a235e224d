# The settings of services.lxmesh as the text of a host file. Pure, and the same bytes for the same
# settings: keys in the order of the alphabet, tables after values, null is left out. An empty list is not: of
# those who may do something it means nobody.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    isAttrs
    isList
    toJSON
    ;

  # A TOML value is written as JSON is: strings (basic strings take the same escapes), numbers,
  # booleans and arrays of them.
  line = name: value: "${name} = ${toJSON value}\n";
  present = set: filter (name: set.${name} != null) (attrNames set);
  isTables = value: isList value && value != [ ] && isAttrs (builtins.head value);

  values =
    set:
    concatStringsSep "" (
      map (name: line name set.${name}) (
        filter (name: !isAttrs set.${name} && !isTables set.${name}) (present set)
      )
    );
  table =
    name: set:
    let
      inside = values set;
    in
    if inside == "" then "" else "\n[${name}]\n${inside}";
  tables = name: list: concatStringsSep "" (map (set: "\n[[${name}]]\n${values set}") list);
in
settings:
"# Made by the NixOS module services.lxmesh.\n"
+ values settings
+ concatStringsSep "" (
  map (
    name:
    if isAttrs settings.${name} then
      table name settings.${name}
    else if isTables settings.${name} then
      tables name settings.${name}
    else
      ""
  ) (present settings)
)
