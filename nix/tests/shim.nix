# A stand-in for nixpkgs' lib where there is none: enough of options, types and merging to evaluate
# module.nix. It is NOT the module system: one definition per option (mkDefault loses), no priorities
# beyond that, no functions as values, no documentation rendering. NIXPKGS_LIB names the real one.
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatMap
    elem
    filter
    foldl'
    isAttrs
    isBool
    isInt
    isList
    isString
    listToAttrs
    mapAttrs
    ;
  isOption = value: isAttrs value && value._type or "" == "option";
  isDefault = value: isAttrs value && value._type or "" == "default";
  fail = path: text: throw "The option `${path}': ${text}";
  plain = description: check: {
    inherit description;
    merge = path: value: if check value then value else fail path "is not ${description}";
  };

  # Options and a value → the value with defaults, every name and type checked.
  fill =
    path: options: value:
    let
      unknown = filter (name: !options ? ${name}) (attrNames value);
      one =
        name: option:
        let
          here = "${path}.${name}";
        in
        if !isOption option then
          fill here option (value.${name} or { })
        else if value ? ${name} then
          option.type.merge here (if isDefault value.${name} then value.${name}.value else value.${name})
        else if option ? default then
          option.type.merge here option.default
        else
          fail here "is used but not defined";
    in
    if unknown != [ ] then
      fail "${path}.${builtins.head unknown}" "does not exist"
    else
      mapAttrs one options;

  merge =
    a: b:
    a
    // mapAttrs (
      name: value:
      if !a ? ${name} || isDefault a.${name} then
        value
      else if isDefault value then
        a.${name}
      else if isAttrs a.${name} && isAttrs value then
        merge a.${name} value
      else if isList a.${name} then
        a.${name} ++ value
      else
        throw "defined twice: ${name}"
    ) b;
in
rec {
  isShim = true;
  mkOption = arguments: arguments // { _type = "option"; };
  mkDefault = value: {
    _type = "default";
    inherit value;
  };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  inherit listToAttrs filter;
  unique = foldl' (found: value: if elem value found then found else found ++ [ value ]) [ ];
  optionals = condition: list: if condition then list else [ ];
  escapeShellArgs = words: builtins.concatStringsSep " " (map (word: "'${word}'") words);

  types = {
    bool = plain "a boolean" isBool;
    str = plain "a string" isString;
    package = plain "a package" (_: true);
    ints = {
      between =
        low: high: plain "an integer from ${toString low} to ${toString high}" (v: isInt v && v >= low && v <= high);
      positive = plain "a positive integer" (v: isInt v && v > 0);
    };
    enum = values: plain "one of ${builtins.toJSON values}" (value: elem value values);
    nullOr = type: {
      description = "null or ${type.description}";
      options = type.options or { };
      merge = path: value: if value == null then null else type.merge path value;
    };
    either = a: b: {
      description = "${a.description} or ${b.description}";
      # The second only where the first is for another kind of value.
      merge = path: value: if isString value then a.merge path value else b.merge path value;
    };
    listOf = type: {
      options = type.options or { };
      description = "a list of ${type.description}";
      merge =
        path: value: if isList value then map (type.merge "${path}.*") value else fail path "is not a list";
    };
    attrsOf = type: {
      description = "a set of ${type.description}";
      merge = path: value: mapAttrs (name: type.merge "${path}.${name}") value;
    };
    submodule = { options }: {
      description = "a set of options";
      inherit options;
      merge = path: value: fill path options value;
    };
  };

  # `module` evaluated with one definition of services.lxmesh: { config, options }.
  evaluate =
    {
      module,
      definition,
      arguments,
    }:
    let
      flatten =
        part:
        if !isAttrs part then
          part
        else if part._type or "" == "if" then
          if part.condition then flatten part.content else { }
        else if part._type or "" == "merge" then
          foldl' merge { } (map flatten part.contents)
        else
          part;
      opened = import module (arguments // { config.services.lxmesh = own; });
      made = flatten opened.config;
      of = name: made.services.lxmesh.${name};
      value =
        name: option:
        let
          mine = definition ? ${name};
          # Only asked for where it may be: whether the module is enabled decides what it defines.
          both = if isAttrs (definition.${name} or null) then merge definition.${name} (of name) else definition.${name};
        in
        if mine || made.services.lxmesh ? ${name} then
          option.type.merge "services.lxmesh.${name}" (if mine then both else of name)
        else
          option.default;
      resolve =
        part:
        if !isAttrs part || part ? outPath then
          part
        else if part._type or "" == "if" then
          if part.condition then resolve part.content else { }
        else if isDefault part then
          part.value
        else
          mapAttrs (_: resolve) part;
      own = mapAttrs value opened.options.services.lxmesh;
    in
    {
      config = mapAttrs (_: resolve) made // {
        services = mapAttrs (_: resolve) made.services // {
          lxmesh = own;
        };
      };
      inherit (opened) options;
    };
}
