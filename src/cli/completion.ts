import type { Command } from "commander";
import { UsageError } from "./failure.ts";

/** A script for the shell that completes commands, options and the names of services. */
export function completionScript(program: Command, shell: string): string {
  const words = wordsOf(program);
  switch (shell) {
    case "bash":
      return bashScript(words);
    case "zsh":
      return `#compdef steward\nautoload -U +X bashcompinit && bashcompinit\n${bashScript(words)}`;
    case "fish":
      return fishScript(words);
    default:
      throw new UsageError(`there is completion for bash, zsh and fish, not for ${JSON.stringify(shell)}`);
  }
}

/** What may follow a command path: sub-commands and long options. */
interface CommandWords {
  readonly path: string;
  readonly words: readonly string[];
  /** Whether its argument is the name of a service. */
  readonly takesService: boolean;
}

function wordsOf(command: Command, path: readonly string[] = []): CommandWords[] {
  const options = command.options.flatMap((option) =>
    option.long === undefined || option.long === null ? [] : [option.long],
  );
  const here: CommandWords = {
    path: path.join(" "),
    words: [...command.commands.map((each) => each.name()), ...options],
    takesService: command.registeredArguments.some((argument) => /^(name|names|service)$/.test(argument.name())),
  };
  return [
    here,
    ...command.commands.flatMap((each) =>
      [each.name(), ...each.aliases()].flatMap((name) => wordsOf(each, [...path, name])),
    ),
  ];
}

function bashScript(all: readonly CommandWords[]): string {
  const cases = all.map(({ path, words, takesService }) => {
    const names = takesService ? " $(steward get services -o name 2>/dev/null)" : "";
    return `    ${JSON.stringify(path)}) candidates="${words.join(" ")}${names}" ;;`;
  });
  return `_steward() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path="" word candidates=""
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) ;; *) case " ${all.map(({ path }) => path.replaceAll(" ", "_")).join(" ")} " in
      *" \${path:+\${path// /_}_}$word "*) path="\${path:+$path }$word" ;;
    esac ;; esac
  done
  case "$path" in
${cases.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$candidates" -- "$current"))
}
complete -o default -F _steward steward
`;
}

function fishScript(all: readonly CommandWords[]): string {
  const lines = all.flatMap(({ path, words, takesService }) => {
    const when =
      path === ""
        ? "__fish_use_subcommand"
        : path
            .split(" ")
            .map((word) => `__fish_seen_subcommand_from ${word}`)
            .join("; and ");
    const plain = words.filter((word) => !word.startsWith("--"));
    const options = words.filter((word) => word.startsWith("--"));
    return [
      ...(plain.length === 0 ? [] : [`complete -c steward -f -n '${when}' -a '${plain.join(" ")}'`]),
      ...options.map((option) => `complete -c steward -n '${when}' -l ${option.slice(2)}`),
      ...(takesService ? [`complete -c steward -f -n '${when}' -a '(steward get services -o name 2>/dev/null)'`] : []),
    ];
  });
  return `${lines.join("\n")}\n`;
}
