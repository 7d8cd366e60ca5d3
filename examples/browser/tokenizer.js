// Turns texts into tokens by the bundle's tokenizer.json: byte-level BPE, as RoBERTa has it.
//
// Tokens, offsets and words are those of the tokenizers library in Python, but offsets count UTF-16 units as JavaScript
// does: text.slice(token.start, token.end) is what a token stands for. Files with parts that RoBERTa's lacks are refused.

// The words of GPT-2 and RoBERTa (Radford et al., 2019). JavaScript's own \s has U+FEFF and lacks U+0085.
const WORD =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const SPACE = 0x20;

const toUtf8 = new TextEncoder();
// A byte order mark is a character like any other.
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

// The alphabet of these vocabularies: a printable character for every byte, and back.
const LETTERS = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  LETTERS.push(String.fromCodePoint(printable ? byte : next++));
}
const BYTES = new Map(LETTERS.map((letter, byte) => [letter, byte]));

export class Tokenizer {
  #ids; // by name
  #names; // by id
  #ranks; // of merges, by "left right"
  #added; // the rows of added tokens, by name
  #addedPattern;
  #special; // the ids that decode() may skip
  #addsSpace;
  #templates;
  #trim;
  #piecesOfWord = new Map();

  // `file` is the parsed tokenizer.json. Throws an Error that says what is not supported.
  constructor(file) {
    check(file);
    const { model, added_tokens: added = [] } = file;
    this.#ids = new Map([...Object.entries(model.vocab), ...added.map((row) => [row.content, row.id])]);
    this.#names = new Map([...this.#ids].map(([name, id]) => [id, name]));
    this.#ranks = new Map(model.merges.map((merge, rank) => [Array.isArray(merge) ? merge.join(" ") : merge, rank]));
    this.#added = new Map(added.map((row) => [row.content, row]));
    this.#addedPattern = patternOf(added);
    this.#special = new Set(added.filter((row) => row.special).map((row) => row.id));
    this.#addsSpace = file.pre_tokenizer.add_prefix_space ?? true;
    this.#templates = templatesOf(file.post_processor);
    const { type, trim_offsets: trims = true, add_prefix_space: keepsFirstSpace = true } = file.post_processor;
    this.#trim = { trims: type === "RobertaProcessing" && trims, keepsFirstSpace };
  }

  // Returns the tokens of a text, or of a pair of texts, with special tokens. Each has `id`; `start` and `end` in its
  // text; `word`, its number in its text; and `sequence`: 0 for the text, 1 for the pair, -1 for special tokens.
  encode(text, pair = null) {
    const texts = pair === null ? [text] : [text, pair];
    for (const one of texts) {
      if (!one.isWellFormed()) throw new Error("A text has half of a surrogate pair, which is no character.");
    }
    return this.#templates[texts.length - 1].flatMap((part) =>
      part.sequence < 0 ? [{ ...part, start: 0, end: 0, word: -1 }] : this.#encodeText(texts[part.sequence], part),
    );
  }

  // Returns the text of tokens that are given by their ids.
  decode(ids, { skipSpecialTokens = false } = {}) {
    return this.join(ids.filter((id) => !(skipSpecialTokens && this.#special.has(id))).map((id) => this.token(id)));
  }

  // Returns the text of tokens that are given by their names.
  join(names) {
    return fromUtf8.decode(Uint8Array.from(names.flatMap(bytesOfToken)));
  }

  // Returns the name of the token with this id; "" where there is none.
  token(id) {
    return this.#names.get(id) ?? "";
  }

  #encodeText(text, { sequence, type }) {
    const places = new Places(text);
    const tokens = [];
    for (const { id, word, ...span } of this.#spans(text, places)) {
      const [first, end] = this.#trimmed(span, tokens.length === 0);
      tokens.push({ id, start: places.unit(first), end: places.unit(end), word, sequence, type });
    }
    return tokens;
  }

  // Yields each token of a text: its `id`, the number of its `word`, its `first` character and the one behind its last,
  // `end`, and how many spaces it begins and ends with: `leading` and `trailing`.
  *#spans(text, places) {
    let word = 0;
    for (const stretch of stretchesOf(text, this.#addedPattern)) {
      const words = stretch.added ? [[this.#addedSpan(stretch, places)]] : this.#spansOfWords(stretch, places);
      for (const spans of words) {
        for (const span of spans) yield { ...span, word };
        word++;
      }
    }
  }

  #addedSpan({ text, start }, places) {
    const characters = [...text];
    const first = places.character(start);
    return {
      id: this.#added.get(trimSpaces(text)).id,
      first,
      end: first + characters.length,
      leading: characters.findIndex((character) => !isSpace(character)),
      trailing: characters.length - 1 - characters.findLastIndex((character) => !isSpace(character)),
    };
  }

  *#spansOfWords(stretch, places) {
    for (const { bytes, owners } of wordsOf(stretch, this.#addsSpace, places)) {
      const spans = [];
      let begin = 0;
      for (const piece of this.#pieces(bytes.map((byte) => LETTERS[byte]))) {
        const end = begin + piece.length;
        const part = bytes.slice(begin, end);
        const leading = part.findIndex((byte) => byte !== SPACE);
        spans.push({
          id: this.#ids.get(piece),
          first: owners[begin],
          end: owners[end - 1] + 1,
          leading: leading < 0 ? part.length : leading,
          trailing: part.length - 1 - part.findLastIndex((byte) => byte !== SPACE),
        });
        begin = end;
      }
      yield spans;
    }
  }

  // Returns the first character of a token and the one after its last, without the spaces at its ends.
  #trimmed({ first, end, leading, trailing }, isFirst) {
    if (!this.#trim.trims) return [first, end];
    // A single space at the start of the first token counts as added, even if it is in the text.
    const isPrefix = (isFirst || first === 0) && leading === 1 && this.#trim.keepsFirstSpace;
    const start = Math.min(first + (isPrefix ? 0 : leading), end);
    return [start, end >= trailing ? Math.max(end - trailing, start) : end];
  }

  // Merges the letters of a word, the pair of the lowest rank first, and of equal ranks the leftmost.
  #pieces(letters) {
    const key = letters.join("");
    const known = this.#piecesOfWord.get(key);
    if (known) return known;
    const pieces = [...letters];
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let at = 0; at + 1 < pieces.length; at++) {
        const rank = this.#ranks.get(`${pieces[at]} ${pieces[at + 1]}`) ?? Infinity;
        if (rank < best) [best, place] = [rank, at];
      }
      if (place < 0) break;
      pieces.splice(place, 2, pieces[place] + pieces[place + 1]);
    }
    this.#piecesOfWord.set(key, pieces);
    return pieces;
  }
}

// Counts characters (code points) and UTF-16 units of a text.
class Places {
  #units = [];
  #characters = new Map();

  constructor(text) {
    let unit = 0;
    for (const character of text) {
      this.#characters.set(unit, this.#units.length);
      this.#units.push(unit);
      unit += character.length;
    }
    this.#characters.set(unit, this.#units.length);
    this.#units.push(unit);
  }

  // Returns where a character begins, in UTF-16 units.
  unit(character) {
    return this.#units[character];
  }

  // Returns the number of the character that begins at a UTF-16 unit.
  character(unit) {
    return this.#characters.get(unit);
  }
}

// Splits a text into added tokens, with the spaces that belong to them, and what is between these.
function* stretchesOf(text, pattern) {
  let done = 0;
  for (const match of pattern ? text.matchAll(pattern) : []) {
    if (match.index > done) yield { text: text.slice(done, match.index), start: done, added: false };
    yield { text: match[0], start: match.index, added: true };
    done = match.index + match[0].length;
  }
  if (done < text.length) yield { text: text.slice(done), start: done, added: false };
}

// Yields each word of a stretch: its bytes, and for each byte the number of the character that it is a part of.
function* wordsOf(stretch, addsSpace, places) {
  const prefix = addsSpace && !stretch.text.startsWith(" ") ? " " : "";
  let character = places.character(stretch.start);
  let isAdded = prefix === " "; // a space that was added has the place of the character after it
  for (const [word] of (prefix + stretch.text).matchAll(WORD)) {
    const owners = [];
    for (const one of word) {
      for (let count = toUtf8.encode(one).length; count > 0; count--) owners.push(character);
      if (!isAdded) character++;
      isAdded = false;
    }
    yield { bytes: [...toUtf8.encode(word)], owners };
  }
}

function bytesOfToken(name) {
  const bytes = [...name].map((letter) => BYTES.get(letter));
  return bytes.includes(undefined) ? [...toUtf8.encode(name)] : bytes;
}

function isSpace(character) {
  return /^\p{White_Space}$/u.test(character);
}

function trimSpaces(text) {
  return text.replace(/^\p{White_Space}+|\p{White_Space}+$/gu, "");
}

// Returns an expression that matches added tokens, the longest first; null where there are none.
function patternOf(added) {
  const rows = added.toSorted((one, other) => other.content.length - one.content.length);
  const spaces = "\\p{White_Space}*";
  const sources = rows.map(
    (row) => `${row.lstrip ? spaces : ""}${escaped(row.content)}${row.rstrip ? spaces : ""}`,
  );
  return rows.length ? new RegExp(sources.join("|"), "gu") : null;
}

function escaped(text) {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

// Returns the parts of an encoded text and of an encoded pair. A part is a special token or one of the texts.
function templatesOf(processor) {
  const special = (id, type = 0) => ({ id, sequence: -1, type });
  const text = (sequence, type = 0) => ({ sequence, type });
  if (processor.type === "RobertaProcessing") {
    const [first, separator] = [special(processor.cls[1]), special(processor.sep[1])];
    return [
      [first, text(0), separator],
      [first, text(0), separator, separator, text(1), separator],
    ];
  }
  const partsOf = ({ Sequence: sequence, SpecialToken: token }) =>
    sequence
      ? [text(sequence.id === "A" ? 0 : 1, sequence.type_id)]
      : processor.special_tokens[token.id].ids.map((id) => special(id, token.type_id));
  return [processor.single.flatMap(partsOf), processor.pair.flatMap(partsOf)];
}

// Throws an Error for a file that asks for what this module does not do.
function check(file) {
  const { model, pre_tokenizer: words, post_processor: processor, added_tokens: added = [] } = file;
  const wrong = [
    [(model?.type ?? "BPE") !== "BPE", `its model is ${model?.type}, expected BPE`],
    [words?.type !== "ByteLevel" || words.use_regex === false, "it does not split texts into words as RoBERTa does"],
    [!["RobertaProcessing", "TemplateProcessing"].includes(processor?.type), "it adds special tokens in another way"],
    [file.decoder?.type !== "ByteLevel", "its decoder is not ByteLevel"],
    [file.normalizer, "it has a normalizer"],
    [added.some((row) => row.single_word), "an added token is marked as single_word"],
    ...["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"].map((name) => [
      model?.[name],
      `its model has ${name}`,
    ]),
    [LETTERS.some((letter) => !(letter in (model?.vocab ?? {}))), "its vocabulary lacks a token for some byte"],
  ];
  const found = wrong.find(([isWrong]) => isWrong);
  if (found) {
    throw new Error(`tokenizer.json cannot be used here: ${found[1]}. It must be a byte-level BPE as RoBERTa has it.`);
  }
}
