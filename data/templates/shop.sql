-- The shop's tables; elm_helpers/store.py fills and reads them. Dates are ISO texts, prices US dollars.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);  -- today (missing in an imported shop), return_days, policies …

CREATE TABLE products (
    id TEXT PRIMARY KEY, sku TEXT UNIQUE COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    brand TEXT, category TEXT COLLATE NOCASE, kind TEXT, also TEXT, price REAL, rating REAL, description TEXT);
CREATE INDEX product_ids ON products (id COLLATE NOCASE);
CREATE INDEX product_names ON products (name);
CREATE TABLE specifications (
    product_id TEXT NOT NULL REFERENCES products ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (product_id, name));
CREATE TABLE variants (
    product_id TEXT NOT NULL REFERENCES products ON DELETE CASCADE, variant TEXT NOT NULL COLLATE NOCASE,
    sku TEXT UNIQUE COLLATE NOCASE, PRIMARY KEY (product_id, variant));  -- one "standard" where a product has none
CREATE TABLE stock (
    product_id TEXT NOT NULL, variant TEXT NOT NULL COLLATE NOCASE, location TEXT NOT NULL COLLATE NOCASE,
    units INTEGER, restock_date TEXT,  -- units NULL: nobody counted, which is not 0
    PRIMARY KEY (product_id, variant, location),
    FOREIGN KEY (product_id, variant) REFERENCES variants ON DELETE CASCADE);
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY, product_id TEXT NOT NULL REFERENCES products ON DELETE CASCADE,
    stars INTEGER NOT NULL CHECK (stars BETWEEN 1 AND 5), text TEXT);  -- text NULL: stars only
CREATE INDEX review_products ON reviews (product_id);
CREATE VIRTUAL TABLE product_search USING fts5 (
    product_id UNINDEXED, name, brand, kind, also, variants, category, description,
    tokenize = 'porter unicode61 remove_diacritics 2');

CREATE TABLE customers (
    id TEXT PRIMARY KEY COLLATE NOCASE, name TEXT, email TEXT UNIQUE COLLATE NOCASE,
    tier TEXT NOT NULL DEFAULT 'none' CHECK (tier IN ('none', 'bronze', 'silver', 'gold')),
    points INTEGER NOT NULL DEFAULT 0);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id TEXT REFERENCES customers,
    status TEXT NOT NULL CHECK (status IN ('processing', 'shipped', 'delivered', 'cancelled', 'returned')),
    placed_on TEXT NOT NULL, delivered_on TEXT, total REAL NOT NULL, tracking TEXT);
CREATE INDEX order_keys ON orders (ltrim(replace(upper(id), ' ', ''), '#'));
CREATE INDEX order_customers ON orders (customer_id);
CREATE TABLE order_lines (
    order_id TEXT NOT NULL REFERENCES orders ON DELETE CASCADE, line INTEGER NOT NULL,
    product_id TEXT NOT NULL REFERENCES products ON DELETE CASCADE, variant TEXT,
    quantity INTEGER NOT NULL CHECK (quantity > 0), price REAL NOT NULL,  -- of one piece, as paid
    PRIMARY KEY (order_id, line));
CREATE INDEX line_products ON order_lines (product_id);
CREATE TABLE returns (  -- a line can go back once; lines sent back together share an id
    id TEXT NOT NULL, order_id TEXT NOT NULL, line INTEGER NOT NULL, reason TEXT, refund REAL NOT NULL,
    status TEXT NOT NULL, created TEXT NOT NULL, PRIMARY KEY (order_id, line),
    FOREIGN KEY (order_id, line) REFERENCES order_lines ON DELETE CASCADE);

CREATE TABLE promotions (
    code TEXT PRIMARY KEY COLLATE NOCASE, kind TEXT NOT NULL CHECK (kind IN ('percent', 'amount', 'free_shipping')),
    value REAL NOT NULL, minimum_tier TEXT, minimum_order REAL, starts TEXT, ends TEXT,
    first_order_only INTEGER NOT NULL DEFAULT 0);
CREATE TABLE shipping_rates (
    zone TEXT NOT NULL, method TEXT NOT NULL, cost REAL NOT NULL, days_low INTEGER NOT NULL, days_high INTEGER NOT NULL,
    PRIMARY KEY (zone, method));
CREATE TABLE shipping_zones (place TEXT NOT NULL, form TEXT NOT NULL, zone TEXT NOT NULL, PRIMARY KEY (place, form));
CREATE TABLE conversations (id TEXT PRIMARY KEY, messages TEXT NOT NULL);  -- imported chats, redacted: [{role, content}]
