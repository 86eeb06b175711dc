// Markdown to elements. Three walls stand between a model's text and the page: markup in the text is shown as text but
// for a few tags without attributes, DOMPurify cleans what the library wrote, and the page's policy runs no script but
// ours.
import DOMPurify, { type Config } from "dompurify";
import { Marked, type Token, type TokensList } from "marked";
import { finishBlock } from "./blocks";
import { escaped } from "./escaped";
import { MATHS } from "./maths_syntax";

const PLAIN_TAG = /<(\/?)(br|sub|sup|kbd|mark|u|s|b|i|em|strong|small|details|summary)\s*\/?>/gi;
const SAFE_LINK = /^(https?:|mailto:)/i;
const ALLOWED: Config & { RETURN_DOM_FRAGMENT: true } = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "details", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "input",
    "kbd", "li", "mark", "ol", "p", "pre", "s", "small", "strong", "sub", "summary", "sup", "table", "tbody", "td", "th",
    "thead", "tr", "u", "ul",
  ],
  ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "start", "title", "type"],
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({ gfm: true, extensions: MATHS });
marked.use({
  renderer: {
    html: ({ text }) => markupAsText(text),
    link({ href, title, tokens }) {
      const inside = this.parser.parseInline(tokens);
      if (!SAFE_LINK.test(href)) return inside;
      return `<a href="${escaped(href)}"${title ? ` title="${escaped(title)}"` : ""}>${inside}</a>`;
    },
    // Nothing is fetched from elsewhere because a model wrote an address.
    image: ({ href, text }) => {
      const shown = escaped(text || href);
      return SAFE_LINK.test(href) ? `<a href="${escaped(href)}">${shown}</a>` : shown;
    },
  },
});

export function blocksOf(text: string): TokensList {
  return marked.lexer(text);
}

/** The elements of some of `blocksOf`. */
export function elementsOf(tokens: Token[]): DocumentFragment {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  finishBlock(fragment);
  return fragment;
}

function markupAsText(markup: string): string {
  let shown = "";
  let end = 0;
  for (const match of markup.matchAll(PLAIN_TAG)) {
    shown += `${escaped(markup.slice(end, match.index))}<${match[1]}${match[2]?.toLowerCase()}>`;
    end = match.index + match[0].length;
  }
  return shown + escaped(markup.slice(end));
}
